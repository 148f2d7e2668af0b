package rehearsal

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	toolPlan  = "update_plan"
	toolAsk   = "request_user_input"
	toolImage = "view_image"
)

// Times of what is asked to be slow. They hold whatever Config.Delay says, so
// that there is something to interrupt; every one ends with the request.
const (
	slowPace  = 150 * time.Millisecond
	countPace = 400 * time.Millisecond
	maxCount  = 10000
)

// chat answers what is no command to it.
func chat(c *conversation) reply {
	var b strings.Builder
	b.WriteString(label)
	seen := ""
	if c.images > 0 {
		seen = fmt.Sprintf(" I was sent %d image(s) with it, and cannot see them.", c.images)
	}
	if isGreeting(c.user) {
		b.WriteString("Hello! I am Towline's rehearsal model: a script that acts like a model, offline. " +
			"There is no AI here, and nothing leaves this machine." + seen + "\n\n")
	} else {
		fmt.Fprintf(&b, "You said %s.%s I am a script without an AI behind it, so I cannot think about that. "+
			"What I can do is act on plain words, through the same tools a real model uses.\n\n", quote(c.user), seen)
	}
	b.WriteString("Try one of these:\n\n" +
		"- `show me around`: a tour with a plan, an approval and an edit\n" +
		"- `list files`, or `run git status`\n" +
		"- `create hello.go`, then `change hello to good day in hello.go`\n" +
		"- `help`: everything I know\n")
	return reply{text: b.String()}
}

func isGreeting(s string) bool {
	s = strings.ToLower(strings.Trim(s, " \n\t.!?,"))
	for _, g := range []string{"hello", "hi", "hey", "good morning", "good evening", "good day", "hallo", "hola", "moin"} {
		if s == g || strings.HasPrefix(s, g+" ") || strings.HasPrefix(s, g+",") {
			return true
		}
	}
	return s == ""
}

func help(*conversation, []string) reply {
	var b strings.Builder
	b.WriteString(label + "I am a script, not an AI. I do what these words say, with real tools on this machine:\n\n| say | what happens |\n|---|---|\n")
	for _, h := range behaviours() {
		if h.try != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", h.try, h.shows)
		}
	}
	b.WriteString("\nThe answers are the same each time. A real model is configured in `config.toml`.\n")
	return reply{text: b.String()}
}

func say(_ *conversation, m []string) reply { return reply{text: label + unquote(m[1])} }

func slow(*conversation, []string) reply {
	return reply{pace: slowPace, text: label + "This answer comes slowly, one word at a time, so that there is time to watch it, " +
		"to interrupt it, to write something in between, or to cut the connection and come back. " +
		"Nothing is thought about in the pauses. It goes on for a few more words, then it stops, and the turn is done."}
}

func wait(_ *conversation, m []string) reply {
	n, _ := strconv.Atoi(clip(m[1], 6)) // digits by the pattern
	d := min(time.Duration(n)*time.Second, maxWait)
	return reply{wait: d, text: fmt.Sprintf("%sI waited %v before saying this.", label, d)}
}

func count(_ *conversation, m []string) reply {
	n, err := strconv.Atoi(m[1])
	if err != nil || n > maxCount {
		n = maxCount
	}
	r := reply{}
	if strings.Contains(strings.ToLower(m[2]), "slow") {
		r.pace = countPace
	}
	var b strings.Builder
	b.WriteString("**Rehearsal:** ")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "%d ", i)
	}
	b.WriteString("done.")
	r.text = b.String()
	return r
}

func think(_ *conversation, m []string) reply {
	about := clip(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(m[1]), "about ")), 80)
	if about == "" {
		about = "nothing in particular"
	}
	return reply{
		think: []string{
			"**Reading the request**\n\nThe words ask me to think about " + about + ". I am a script, so this is what thinking looks like on screen, not thinking.",
			"**Weighing it**\n\nThere are two sides to it. A real model would look at both of them here.",
			"**Deciding**\n\nEnough of this: answer.",
		},
		text: label + "I showed three steps of reasoning about " + about + ". They were written beforehand; there is no AI here.",
	}
}

// plan shows a plan and advances it step by step.
func plan(c *conversation, m []string) reply {
	var steps []string
	what := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(m[1]), "to "), "for ")
	for _, s := range splitList(strings.ReplaceAll(what, "\n", ",")) {
		if s = strings.Trim(s, " `.-*"); s != "" && len(steps) < 8 {
			steps = append(steps, clip(strings.TrimPrefix(s, "then "), 80))
		}
	}
	if len(steps) < 2 {
		if what = clip(what, 60); what == "" {
			what = "it"
		}
		steps = []string{"Understand " + what, "Rehearse " + what, "Check the result"}
	}
	if !c.tools.has(toolPlan) {
		return reply{text: label + "The client did not offer me " + span(toolPlan) + ", so here is the plan as text:\n\n1. " + strings.Join(steps, "\n1. ")}
	}
	done := c.count(toolPlan)
	switch {
	case done == 0:
		return reply{text: label + "Here is a plan.", calls: []toolCall{planCall("A plan to look at; nothing is really done.", steps, 0)}}
	case done <= len(steps):
		return reply{beats: 1, calls: []toolCall{planCall("", steps, done)}}
	}
	return reply{text: fmt.Sprintf("%sAll %d steps of the plan are marked as done. It was only a rehearsal: nothing else happened.", label, len(steps))}
}

// planCall marks the first done steps as completed and the next as begun.
func planCall(explanation string, steps []string, done int) toolCall {
	type step struct {
		Status string `json:"status"`
		Step   string `json:"step"`
	}
	args := struct {
		Explanation string `json:"explanation,omitempty"`
		Plan        []step `json:"plan"`
	}{Explanation: explanation}
	for i, s := range steps {
		status := "pending"
		switch {
		case i < done:
			status = "completed"
		case i == done:
			status = "in_progress"
		}
		args.Plan = append(args.Plan, step{status, s})
	}
	return function(toolPlan, args)
}

// ask puts a question with choices to the person.
func ask(c *conversation, _ []string) reply {
	const inText = "Which colour should the shed have: **red**, **green** or **something else**? Answer in your next message."
	if !c.tools.has(toolAsk) {
		return reply{text: label + inText}
	}
	k := c.last(toolAsk)
	if k == nil {
		type option struct {
			Label       string `json:"label"`
			Description string `json:"description"`
		}
		type question struct {
			ID       string   `json:"id"`
			Header   string   `json:"header"`
			Question string   `json:"question"`
			Options  []option `json:"options"`
		}
		return reply{calls: []toolCall{function(toolAsk, map[string][]question{"questions": {{
			ID: "shed_colour", Header: "Rehearsal", Question: "Which colour should the shed have? (The rehearsal model asks; nothing depends on it.)",
			Options: []option{{"Red (Recommended)", "It is usually red."}, {"Green", "It disappears among the trees."}},
		}}})}}
	}
	var got struct {
		Answers map[string]struct {
			Answers []string `json:"answers"`
		} `json:"answers"`
	}
	if json.Unmarshal([]byte(k.output), &got) != nil || got.Answers == nil {
		return reply{text: label + "I could not ask with choices (" + clip(k.output, 200) + "), so in words: " + inText}
	}
	if a := got.Answers["shed_colour"].Answers; len(a) > 0 {
		return reply{text: label + "You answered " + quote(strings.Join(a, ", ")) + ". Noted, and forgotten: this was a rehearsal."}
	}
	return reply{text: label + "You gave no answer, which is fine: this was a rehearsal."}
}

// look attaches an image the way a model asks to see one.
func look(c *conversation, m []string) reply {
	file := fileName(m[1])
	if !c.tools.has(toolImage) {
		return c.lacks(toolImage, "look at "+span(file))
	}
	k := c.last(toolImage)
	if k == nil {
		return reply{text: label + "I'll look at " + span(file) + ".", calls: []toolCall{function(toolImage, map[string]string{"path": file})}}
	}
	if k.images > 0 {
		return reply{text: label + span(file) + " reached me as an image. I cannot see: a real model would describe it here."}
	}
	return reply{text: label + "No image came. I was told:\n\n" + fence("text", clip(k.output, 1000))}
}

// fail ends in an error, of the kind the words name.
func fail(_ *conversation, m []string) reply {
	const why = "The rehearsal model failed because it was asked to."
	how := strings.ToLower(strings.TrimSpace(m[1]))
	switch {
	case strings.HasPrefix(how, "once"):
		return reply{fail: &failure{cut: true, once: true}, text: label + "The first attempt was cut off on purpose. This is the second, and it worked."}
	case strings.Contains(how, "rate"):
		return reply{fail: &failure{code: "rate_limit_exceeded", message: why + " Please try again in 1s."}}
	case strings.Contains(how, "quota"):
		return reply{fail: &failure{code: "insufficient_quota", message: why}}
	case strings.Contains(how, "context"):
		return reply{fail: &failure{code: "context_length_exceeded", message: why}}
	}
	for _, w := range strings.Fields(how) {
		if n, err := strconv.Atoi(w); err == nil && n >= 400 && n <= 599 {
			return reply{fail: &failure{status: n, code: strings.ToLower(strings.ReplaceAll(http.StatusText(n), " ", "_")), message: why}}
		}
	}
	return reply{fail: &failure{code: "invalid_prompt", message: why}}
}

func disconnect(*conversation, []string) reply {
	return reply{
		fail: &failure{cut: true, once: true, after: label + "The connection was cut on "},
		text: label + "The connection was cut on purpose, in the middle of this sentence. You read the second attempt.",
	}
}

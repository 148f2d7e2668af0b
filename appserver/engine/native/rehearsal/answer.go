package rehearsal

import (
	"regexp"
	"strings"
	"sync"
)

// label begins every message, so that nobody takes a rehearsal for a model.
const label = "**Rehearsal model** · "

// behaviour is one thing the rehearsal does when it is asked in plain words.
type behaviour struct {
	pattern string // matched against the prompt, without its pleasantries, any case
	try     string // an example for the help text; "" keeps it out of there
	shows   string // what the example shows
	do      func(c *conversation, m []string) reply
}

// behaviours are tried in order. Each reads what was done so far from the
// conversation and says the next step, as a model called again and again would.
func behaviours() []behaviour {
	return []behaviour{
		{`^(?:(?:give|show|take) (?:me )?(?:a |the )?)?(?:quick |guided )?(?:tour|demo)\b|^show me around`, "show me around", "a short tour: plan, approval, edit with diff", tour},
		{`^fail\b[ :]*(.*)`, "fail", "a response that fails; `fail once`, `fail 429`, `fail quota` too", fail},
		{`^disconnect\b`, "disconnect", "the connection is cut in the middle, the retry succeeds", disconnect},
		{`^(?:loop|compact|fill (?:up )?the context)\b`, "loop", "claims a full context window, so that it is compacted", loop},
		{`^count (?:up )?to (\d+)\b(.*)`, "count to 20 slowly", "a slow stream, to interrupt or steer", count},
		{`^(?:stream|talk|speak|answer|go)\b.*\bslow|^slow`, "", "", slow},
		{`^(?:wait|sleep)(?: for)? (\d+)`, "", "", wait},
		{`^think\b[ :,]*(.*)`, "think about tea", "reasoning summaries", think},
		{`(?s)^(?:make a |write a |draw up a )?plan\b[ :,]*(.*)`, "plan bake, cool, eat", "a plan whose steps advance", plan},
		{`^ask\b[ :,]*(.*)`, "ask me something", "a question with choices", ask},
		{`^(?:show (?:me )?)?(?:a )?(?:very )?long output`, "long output", "a command that prints 400 lines", longOutput},
		{`^(?:show (?:me )?)?(?:some )?markdown`, "markdown", "every Markdown element", sampler},
		{`^(?:look at|view|describe|show(?: me)?)\s+(?:the (?:image|picture) )?(\S+\.(?:png|jpe?g|gif|webp|bmp))`, "look at shot.png", "an image is attached", look},
		{`(?s)^(?:run|execute|exec|start)\b[ :]+(.+?),? and (?:type|enter|send) (.+)$`, "run `cat` and type hello", "a terminal that is written to", runAndType},
		{`(?s)^(?:run|execute|exec|start|do)\b[ :]+(.+?)\s*,?\s*in parallel\b`, "run `ls`, `date` in parallel", "several commands at once", parallel},
		{`^(?:run|execute) (?:the |all )?tests$`, "", "", runTests},
		{`(?s)^(?:(?:run|execute|exec)\b[ :]+|[$!]\s*)(.+)$`, "run ls -la", "a command; add `outside the sandbox` for an approval", run},
		{`^(?:list|show)(?: me)?(?: all)?(?: the| my)? (?:files|folder|directory)\b(.*)`, "list files", "what is in the folder", listFiles},
		{`^(?:search|grep|look) for\s+(.+)$`, "", "", search},
		{`(?s)^(?:change|replace|rewrite)\s+(.+?)\s+(?:to|with|by|into)\s+(.+?)\s+in\s+(?:the\s+)?(?:file\s+)?(\S+)$`, "change foo to bar in notes.md", "the file is read, then patched", change},
		{`^(?:rename|move)\s+(?:the\s+)?(?:file\s+)?(\S+)\s+to\s+(\S+)$`, "", "", rename},
		{`(?s)^(?:append|add)\s+(.+?)\s+to\s+(?:the end of\s+)?(?:the\s+)?(?:file\s+)?(\S+)$`, "add a line to notes.md", "a line more at the end", appendLine},
		{`(?s)^(?:edit|update|modify|improve|fix)\s+(?:the\s+)?(?:file\s+)?([^\s,:]+[./][^\s,:]*)[\s,:]*(.*)$`, "", "", edit},
		{`(?s)^(?:write|create|make|add|save)\s+(?:me\s+)?(?:a\s+|an\s+|the\s+)?(?:new\s+|small\s+)?(?:file\s+)?(?:called\s+|named\s+)?([^\s,:]+\.[^\s,:]+)[ ,:]*(?:(?:with|containing|saying|that says|and put in)\b\s*:?\s*(.*))?$`, "create hello.go", "a file is written, with its diff", write},
		{`^(?:delete|remove)\s+(?:the\s+)?(?:file\s+)?(\S+\.\S+)`, "delete hello.go", "a file is removed", remove},
		{`^(?:read|cat|open|show)(?: me)?\s+(?:the\s+)?(?:file\s+)?([^\s,:]+[./][^\s,:]*)$`, "", "", readFile},
		{`(?s)^(?:say|repeat(?: after me)?|echo)\b[ :,]+(.+)$`, "", "", say},
		{`^(?:help|what can you do|who are you|what are you|commands)\b`, "help", "this list", help},
	}
}

// compiled is made on first use: a program that has a real model never pays.
var compiled = sync.OnceValue(func() []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, b := range behaviours() {
		out = append(out, regexp.MustCompile("(?i)"+b.pattern))
	}
	return out
})

var pleasantries = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^(?:(?:hey|hi|hello|ok|okay|now|then|please|kindly|and|can you|could you|would you|will you|i want you to|i'd like you to|let's)\b[\s,:!.]*)+`)
})

// maxPrompt is how much of a prompt is looked at for words to act on.
const maxPrompt = 64 << 10

// answer is what the model says and does next.
func answer(c *conversation) reply {
	switch {
	case c.compact:
		return summary(c)
	case c.schema != nil:
		return structured(c)
	case c.compacted && len(c.calls) == 0:
		return reply{text: label + "The conversation was compacted, and I go on from its summary.\n\nThere is nothing left to do for: " + quote(c.user)}
	}
	prompt := c.user
	if len(prompt) > maxPrompt {
		prompt = prompt[:maxPrompt]
	}
	prompt = strings.TrimRight(pleasantries().ReplaceAllString(prompt, ""), " \n\t?!")
	for i, re := range compiled() {
		if m := re.FindStringSubmatch(prompt); m != nil {
			return behaviours()[i].do(c, m)
		}
	}
	return chat(c)
}

// last is the latest call of one of the named tools, nil if there was none.
func (c *conversation) last(names ...string) *call {
	for i := len(c.calls) - 1; i >= 0; i-- {
		for _, n := range names {
			if c.calls[i].name == n {
				return &c.calls[i]
			}
		}
	}
	return nil
}

// count is how often the named tools were called for this prompt.
func (c *conversation) count(names ...string) int {
	n := 0
	for i := range c.calls {
		for _, name := range names {
			if c.calls[i].name == name {
				n++
			}
		}
	}
	return n
}

// unquote takes the marks off a word a person quoted.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	for _, q := range [][2]string{{"`", "`"}, {`"`, `"`}, {"'", "'"}, {"“", "”"}, {"‘", "’"}} {
		if len(s) > len(q[0])+len(q[1]) && strings.HasPrefix(s, q[0]) && strings.HasSuffix(s, q[1]) {
			return s[len(q[0]) : len(s)-len(q[1])]
		}
	}
	return s
}

// fileName is unquote for a file, without the @ of a mention and a final dot.
func fileName(s string) string {
	s = strings.TrimPrefix(unquote(s), "@")
	return unquote(strings.TrimRight(s, ".,;:"))
}

// quote shows the start of what a person said, as a Markdown quotation of one line.
func quote(s string) string { return "“" + clip(strings.Join(strings.Fields(s), " "), 120) + "”" }

// clip cuts s to n bytes at a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// fence is a Markdown code block around text, whatever backticks are in it.
func fence(lang, text string) string {
	marks := "```"
	for strings.Contains(text, marks) {
		marks += "`"
	}
	return marks + lang + "\n" + strings.TrimRight(text, "\n") + "\n" + marks + "\n"
}

// span is a Markdown code span around text.
func span(text string) string {
	if text = strings.ReplaceAll(text, "\n", " "); text == "" {
		return "(nothing)"
	}
	marks := "`"
	for strings.Contains(text, marks) {
		marks += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	return marks + text + marks
}

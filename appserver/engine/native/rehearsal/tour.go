package rehearsal

import "strings"

// tourFile is what the tour writes, in the project's folder.
const tourFile = "towline-tour.md"

const tourBody = `# A tour of Towline

This file was written by the rehearsal model, a script without an AI.

1. A plan was made.
2. A command asked for your approval.
3. This file was written.

Status: draft
`

var tourSteps = []string{"Run a command, with your approval", "Write a file", "Change it", "Sum up"}

const tourCommand = "uname -sr && date +%F && ls"

// tour shows what a session is like: a plan, a command that asks for approval, a
// file that is written and then changed, and a summary. Which step is next is
// read from the calls made so far; a refusal is an answer too, and the tour goes on.
func tour(c *conversation, _ []string) reply {
	plans := c.tools.has(toolPlan)
	withPlan := func(done int, r reply) reply {
		if plans {
			r.calls = append([]toolCall{planCall("", tourSteps, done)}, r.calls...)
		}
		return r
	}
	command, patches := c.last(toolExec), c.patches()
	switch {
	case !c.tools.has(toolExec):
		return c.lacks(toolExec, "show you around")
	case command == nil && plans && c.count(toolPlan) == 0:
		return withPlan(0, reply{
			think: []string{"**Planning the tour**\n\nFour steps will show most of what there is to see. I am a script, so they are always the same."},
			text: label + "Welcome! I'll show you around. I am a script, not an AI, but everything you will see is real: " +
				"the command runs on this machine, and the file is written into this folder.",
		})
	case command == nil:
		return reply{
			beats: 1,
			text:  label + "First a command. I ask for it to run **outside the sandbox**, so you are asked before it does. It only looks around.",
			calls: []toolCall{function(toolExec, execArgs{
				Cmd: tourCommand, Login: plainShell(), Permissions: "require_escalated",
				Justification: "The tour shows what an approval looks like. The command only looks around. Allow it?",
			})},
		}
	case len(patches) == 0 && c.tools.has(toolPatch):
		r, poll := c.finished()
		if poll != nil {
			return reply{calls: []toolCall{*poll}}
		}
		text := "You said yes. " + report(tourCommand, r)
		if !r.ran {
			text = "The command did not run, which is a good answer too: nothing happens without your approval."
		}
		return withPlan(1, reply{
			text:  label + text + "\n\nNow I write a file.",
			calls: []toolCall{patchCall(c.tools[toolPatch], addPatch(tourFile, tourBody))},
		})
	case len(patches) == 1 && applied(patches[0].output):
		after := strings.Replace(tourBody, "\n\nStatus: draft", "\n4. And then it was changed.\n\nStatus: **seen**", 1)
		return withPlan(2, reply{
			beats: 1,
			text:  label + "And now I change it, so that you see a diff with both sides.",
			calls: []toolCall{patchCall(c.tools[toolPatch], updatePatch(tourFile, tourBody, after))},
		})
	case plans && !c.planned(len(tourSteps)):
		return withPlan(len(tourSteps), reply{})
	}
	return reply{text: tourSummary(c, patches)}
}

// patches are the calls of the patch tool so far.
func (c *conversation) patches() []call {
	var out []call
	for _, k := range c.calls {
		if k.name == toolPatch {
			out = append(out, k)
		}
	}
	return out
}

// planned says whether the last plan marks n steps as completed.
func (c *conversation) planned(n int) bool {
	k := c.last(toolPlan)
	return k != nil && strings.Count(k.input, `"completed"`) >= n
}

func tourSummary(c *conversation, patches []call) string {
	var b strings.Builder
	b.WriteString(label + "That was the tour.\n\n| step | what happened |\n|---|---|\n")
	r, _ := c.finished()
	switch {
	case !r.ran:
		b.WriteString("| command | was not approved, so it did not run |\n")
	case r.exit == 0:
		b.WriteString("| command | was approved and ran |\n")
	default:
		b.WriteString("| command | ran and failed |\n")
	}
	switch {
	case len(patches) == 2 && applied(patches[1].output):
		b.WriteString("| file | `" + tourFile + "` was written and changed |\n")
	case len(patches) > 0 && applied(patches[0].output):
		b.WriteString("| file | `" + tourFile + "` was written |\n")
	default:
		b.WriteString("| file | was not written |\n")
	}
	b.WriteString("\nThings to try next:\n\n" +
		"- close this window in the middle of `count to 50 slowly`, and come back: the work went on\n" +
		"- open a second window: both show the same conversation\n" +
		"- `help` lists everything I know; a real model is configured in `config.toml`\n")
	return b.String()
}

// sampler holds every element a client draws.
func sampler(*conversation, []string) reply {
	return reply{text: label + "a bit of everything.\n\n" + sample}
}

const sample = "# Heading one\n\n## Heading two\n\n### Heading three\n\n" +
	"A paragraph with **strong**, *emphasis*, ~~struck~~ and `code` words, a [link](https://example.com/docs) and an\n" +
	"address https://example.com/plain in it. It is long enough to be wrapped on most terminals, and it says nothing at all.\n\n" +
	"- a list\n- with a second point\n  - that has one below it\n    1. numbered\n    2. twice\n- and a third\n\n" +
	"1. first\n2. second\n\n- [x] done\n- [ ] to do\n\n" +
	"> A quotation,\n> over two lines.\n>\n> > And one inside it.\n\n" +
	"```go\n// Greet says hello.\nfunc Greet(name string) string {\n\treturn fmt.Sprintf(\"hello, %s\", name) // 42\n}\n```\n\n" +
	"| column | number | note |\n|:--|--:|:-:|\n| one | 1 | left, right, centre |\n| two | 22 | 世界 |\n\n" +
	"---\n\n![a picture](https://example.com/p.png)\n\n<b>HTML stays text.</b>\n"

package rehearsal

import (
	"encoding/json"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/aymanbagabas/go-udiff"
)

const toolPatch = "apply_patch"

// write makes a new file.
func write(c *conversation, m []string) reply {
	file := fileName(m[1])
	body := fileBody(file, m[2])
	return c.apply(0, "I'll write "+span(file)+".", addPatch(file, body), heredoc(file, body),
		"I wrote "+span(file)+":\n\n"+fence(lang(file), clip(body, 2000)))
}

// change replaces words in a file, after reading it: a patch needs the lines
// around what it changes.
func change(c *conversation, m []string) reply {
	return c.change(unquote(m[1]), unquote(m[2]), fileName(m[3]))
}

func (c *conversation) change(from, to, file string) reply {
	return c.rewrite(file, func(old string) (string, string) {
		if !strings.Contains(old, from) {
			return "", "There is no " + span(from) + " in " + span(file) + ", so I changed nothing. It begins:\n\n" +
				fence(lang(file), clip(old, 600))
		}
		return strings.ReplaceAll(old, from, to), ""
	}, "I changed "+span(from)+" to "+span(to)+" in "+span(file)+".")
}

var changeWords = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?is)^(?:and |to |by )?(?:chang(?:e|ing)|replac(?:e|ing)|say|from)\s+(.+?)\s+(?:to|with|by|into)\s+(.+)$`)
})

// edit changes a file in the way described, or adds a remark to it.
func edit(c *conversation, m []string) reply {
	file := fileName(m[1])
	if w := changeWords().FindStringSubmatch(m[2]); w != nil {
		return c.change(unquote(w[1]), unquote(w[2]), file)
	}
	line := remark(file, "Edited by the rehearsal model.")
	if line == "" {
		return reply{text: label + "I only know how to add a remark to a file, and " + span(file) +
			" has no syntax for one. Try " + span("change one to two in "+file) + "."}
	}
	return c.append(line, file)
}

func appendLine(c *conversation, m []string) reply {
	file, line := fileName(m[2]), unquote(m[1])
	if low := strings.ToLower(line); low == "a line" || low == "one line" || low == "something" {
		line = "A line added by the rehearsal model."
	}
	return c.append(unescape(line), file)
}

func (c *conversation) append(line, file string) reply {
	return c.rewrite(file, func(old string) (string, string) {
		if old != "" && !strings.HasSuffix(old, "\n") {
			old += "\n"
		}
		return old + line + "\n", ""
	}, "I added a line to "+span(file)+":\n\n"+fence(lang(file), line))
}

func remove(c *conversation, m []string) reply {
	file := fileName(m[1])
	return c.apply(0, "I'll delete "+span(file)+".",
		"*** Begin Patch\n*** Delete File: "+file+"\n*** End Patch\n", "rm -- "+shellQuote(file), "I deleted "+span(file)+".")
}

// rename moves a file. The patch format moves a file it also changes, so the
// file is read for a line to hold on to.
func rename(c *conversation, m []string) reply {
	from, to := fileName(m[1]), fileName(m[2])
	old, rep := c.contents(from)
	if rep != nil {
		return *rep
	}
	first, _, _ := strings.Cut(old, "\n")
	return c.apply(1, "I'll move "+span(from)+" to "+span(to)+".",
		"*** Begin Patch\n*** Update File: "+from+"\n*** Move to: "+to+"\n@@\n "+first+"\n*** End Patch\n",
		"mv -- "+shellQuote(from)+" "+shellQuote(to), "I moved "+span(from)+" to "+span(to)+".")
}

// rewrite reads a file, changes its text and patches it. edit gives the new
// text, or a reason why there is none.
func (c *conversation) rewrite(file string, edit func(old string) (text, why string), done string) reply {
	old, rep := c.contents(file)
	if rep != nil {
		return *rep
	}
	text, why := edit(old)
	if why != "" {
		return reply{text: label + why}
	}
	if text == old {
		return reply{text: label + span(file) + " already is as you want it."}
	}
	return c.apply(1, "Now the change.", updatePatch(file, old, text), heredoc(file, text), done)
}

var cutMark = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`…\s*\d+ (?:tokens|chars|bytes|lines) truncated`) })

// contents reads a file with a command; the reply is what to do or say as long
// as its text is not known.
func (c *conversation) contents(file string) (string, *reply) {
	if !c.tools.has(toolExec) {
		r := c.lacks(toolExec, "read "+span(file)+" first")
		return "", &r
	}
	cmd := "cat -- " + shellQuote(file)
	if c.count(toolExec) == 0 {
		return "", &reply{text: label + "I'll read " + span(file) + " first.", calls: []toolCall{function(toolExec, execArgs{Cmd: cmd, Login: plainShell(), MaxTokens: readTokens})}}
	}
	r, poll := c.firstCommand()
	switch {
	case poll != nil:
		return "", &reply{calls: []toolCall{*poll}}
	case !r.ran || r.exit != 0 || r.running:
		return "", &reply{text: label + report(cmd, r)}
	case cutMark().MatchString(r.output):
		return "", &reply{text: label + span(file) + " is too long for a rehearsal: I was shown only parts of it."}
	}
	return r.output, nil
}

// firstCommand is finished, up to the second command.
func (c *conversation) firstCommand() (result, *toolCall) {
	first := *c
	for i := range c.calls {
		if k := c.calls[i]; i > 0 && k.name != toolStdin {
			first.calls = c.calls[:i]
			break
		}
	}
	return first.finished()
}

// apply sends a patch and reports what came of it. before is how many commands
// were run on the way to it; fallback writes the file by a command when the
// client has no patch tool.
func (c *conversation) apply(before int, intro, patch, fallback, done string) reply {
	typ, offered := c.tools[toolPatch]
	if offered {
		k := c.last(toolPatch)
		if k == nil {
			return reply{text: label + intro, calls: []toolCall{patchCall(typ, patch)}}
		}
		if applied(k.output) {
			return reply{text: label + done}
		}
		return reply{text: label + "The patch was not applied. I was told:\n\n" + fence("text", clip(k.output, 2000))}
	}
	if !c.tools.has(toolExec) {
		return c.lacks(toolPatch, "change files")
	}
	if c.count(toolExec) == before {
		return reply{
			text:  label + intro + " The client did not offer me " + span(toolPatch) + " (it does for the model name " + span(Slug) + "), so I use a command.",
			calls: []toolCall{function(toolExec, execArgs{Cmd: fallback, Login: plainShell()})},
		}
	}
	r, poll := c.finished()
	if poll != nil {
		return reply{calls: []toolCall{*poll}}
	}
	if r.ran && !r.running && r.exit == 0 {
		return reply{text: label + done}
	}
	return reply{text: label + report("the command", r)}
}

// patchCall is the call of the patch tool: freeform text, or JSON for clients
// that offer it as a function.
func patchCall(typ, patch string) toolCall {
	if typ == "custom" {
		return toolCall{name: toolPatch, custom: true, input: patch}
	}
	b, _ := json.Marshal(map[string]string{"input": patch}) // strings always marshal
	return toolCall{name: toolPatch, input: string(b)}
}

// applied reads the tool's answer.
func applied(output string) bool { return strings.Contains(output, "Success") }

func addPatch(file, body string) string {
	var b strings.Builder
	b.WriteString("*** Begin Patch\n*** Add File: " + file + "\n")
	for _, l := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		b.WriteString("+" + l + "\n")
	}
	b.WriteString("*** End Patch\n")
	return b.String()
}

// updatePatch turns a line diff into the patch format: hunks have no line
// numbers there, and one that reaches the end says so.
func updatePatch(file, old, text string) string {
	var b strings.Builder
	b.WriteString("*** Begin Patch\n*** Update File: " + file + "\n")
	if !strings.HasSuffix(old, "\n") { // the format knows lines only
		old += "\n"
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	total := strings.Count(old, "\n")
	u, err := udiff.ToUnifiedDiff("a", "b", old, udiff.Strings(old, text), udiff.DefaultContextLines)
	if err != nil {
		return "" // edits computed from the same text always apply
	}
	for _, h := range u.Hunks {
		b.WriteString("@@\n")
		at := h.FromLine - 1
		for _, l := range h.Lines {
			content := strings.TrimSuffix(l.Content, "\n")
			switch l.Kind {
			case udiff.Delete:
				b.WriteString("-" + content + "\n")
				at++
			case udiff.Insert:
				b.WriteString("+" + content + "\n")
			default:
				b.WriteString(" " + content + "\n")
				at++
			}
		}
		if at >= total {
			b.WriteString("*** End of File\n")
		}
	}
	b.WriteString("*** End Patch\n")
	return b.String()
}

// heredoc is a command that writes body to file.
func heredoc(file, body string) string {
	end := "REHEARSAL"
	for strings.Contains(body, end) {
		end += "_"
	}
	return "cat > " + shellQuote(file) + " <<'" + end + "'\n" + strings.TrimSuffix(body, "\n") + "\n" + end
}

// fileBody is what to write: the words given, or something fitting the name.
func fileBody(file, words string) string {
	words = strings.TrimSpace(words)
	if strings.HasPrefix(words, "```") {
		inner := strings.TrimSuffix(strings.TrimPrefix(words, "```"), "```")
		_, body, ok := strings.Cut(inner, "\n")
		if !ok {
			body = inner
		}
		return strings.TrimSuffix(body, "\n") + "\n"
	}
	if words != "" {
		return strings.TrimSuffix(unescape(unquote(words)), "\n") + "\n"
	}
	switch path.Ext(file) {
	case ".go":
		return "package main\n\nimport \"fmt\"\n\n// main was written by the rehearsal model.\nfunc main() {\n\tfmt.Println(\"hello from the rehearsal\")\n}\n"
	case ".py":
		return "# Written by the rehearsal model.\n\n\ndef main():\n    print(\"hello from the rehearsal\")\n\n\nif __name__ == \"__main__\":\n    main()\n"
	case ".sh":
		return "#!/bin/sh\n# Written by the rehearsal model.\nset -eu\necho \"hello from the rehearsal\"\n"
	case ".js", ".ts":
		return "// Written by the rehearsal model.\nconst name = \"rehearsal\";\nconsole.log(`hello from the ${name}`);\n"
	case ".json":
		return "{\n  \"from\": \"the rehearsal model\",\n  \"items\": [1, 2, 3]\n}\n"
	case ".html":
		return "<!doctype html>\n<title>Rehearsal</title>\n<!-- Written by the rehearsal model. -->\n<h1>Hello from the rehearsal</h1>\n"
	case ".md":
		return "# " + strings.TrimSuffix(path.Base(file), ".md") + "\n\nWritten by the rehearsal model.\n\n- one\n- two\n- three\n"
	}
	return "Hello from the rehearsal model.\nThis is the second line.\nThis is the third line.\n"
}

// remark is a comment line in the file's language, "" if it has none.
func remark(file, text string) string {
	switch ext := path.Ext(file); ext {
	case ".go", ".js", ".ts", ".jsx", ".tsx", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs", ".java", ".kt", ".swift", ".cs", ".php", ".scala":
		return "// " + text
	case ".json", ".lock", ".csv":
		return ""
	case ".html", ".xml", ".svg":
		return "<!-- " + text + " -->"
	case ".css":
		return "/* " + text + " */"
	case ".sql", ".lua", ".hs":
		return "-- " + text
	case ".md", ".txt", ".rst":
		return text
	}
	return "# " + text
}

// lang is the language a file's code block is marked with.
func lang(file string) string { return strings.TrimPrefix(path.Ext(file), ".") }

// unescape turns a typed \n into a line break.
func unescape(s string) string { return strings.ReplaceAll(s, `\n`, "\n") }

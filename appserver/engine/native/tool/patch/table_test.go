package patch

// patchCase is a workspace and a patch for it.
type patchCase struct {
	name  string
	files map[string]string
	patch string
}

// better lists the cases in which we mean to differ from Codex, with what the
// workspace holds afterwards.
var better = map[string]map[string]string{
	"two anchors":              {"f": "class A\n  def x\n    1\nclass B\n  def x\n    2\n"},
	"addition after anchor":    {"f": "one\ntwo\nthree\nthree and a half\nfour\nfive\nsix\nseven\neight\nnine\nten\n"},
	"move only":                {"g": numbers},
	"git style hunk header":    {"f": "one\nTWO\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"},
	"same file twice":          {"f": "one\nTWO\nthree\nfour\nfive\nsix\nseven\neight\nNINE\nten\n"},
	"blank line between files": {"f": "one\nTWO\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n", "z": "z\n"},
	"move to itself":           {"f": "y\n"},
}

const numbers = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"

var table = []patchCase{
	{"add", nil, "*** Begin Patch\n*** Add File: a/b/new.txt\n+hello\n+\n+world\n*** End Patch"},
	{"add empty", nil, "*** Begin Patch\n*** Add File: empty.txt\n*** End Patch"},
	{"add over existing", map[string]string{"f": "old\n"}, "*** Begin Patch\n*** Add File: f\n+new\n*** End Patch"},
	{"delete", map[string]string{"f": "old\ntext"}, "*** Begin Patch\n*** Delete File: f\n*** End Patch"},
	{"delete missing", nil, "*** Begin Patch\n*** Delete File: f\n*** End Patch"},
	{"update", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n two\n-three\n+THREE\n four\n*** End Patch"},
	{"update no @@", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n two\n-three\n+THREE\n four\n*** End Patch"},
	{"two hunks", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n@@\n nine\n+nine and a half\n ten\n*** End Patch"},
	{"hunks close together", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n@@\n-five\n+FIVE\n*** End Patch"},
	{"hunks backwards", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n-nine\n+NINE\n@@\n-two\n+TWO\n*** End Patch"},
	{"anchor", map[string]string{"f": "func a() {\n\treturn 1\n}\n\nfunc b() {\n\treturn 1\n}\n"}, "*** Begin Patch\n*** Update File: f\n@@ func b() {\n-\treturn 1\n+\treturn 2\n*** End Patch"},
	{"anchor missing", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@ func z() {\n-two\n+TWO\n*** End Patch"},
	{"two anchors", map[string]string{"f": "class A\n  def x\n    1\nclass B\n  def x\n    1\n"}, "*** Begin Patch\n*** Update File: f\n@@ class B\n@@   def x\n-    1\n+    2\n*** End Patch"},
	{"addition at end", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n+eleven\n*** End Patch"},
	{"addition after anchor", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@ three\n+three and a half\n*** End Patch"},
	{"addition to empty", map[string]string{"f": ""}, "*** Begin Patch\n*** Update File: f\n@@\n+first\n*** End Patch"},
	{"end of file", map[string]string{"f": "a\nb\na\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n-b\n+c\n*** End of File\n*** End Patch"},
	{"no newline at end", map[string]string{"f": "a\nb"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n-b\n+c\n*** End Patch"},
	{"delete last line", map[string]string{"f": "a\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n-b\n*** End Patch"},
	{"delete all lines", map[string]string{"f": "a\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n-a\n-b\n*** End Patch"},
	{"move", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n*** Move to: d/g\n@@\n-two\n+TWO\n*** End Patch"},
	{"move over existing", map[string]string{"f": numbers, "g": "old\n"}, "*** Begin Patch\n*** Update File: f\n*** Move to: g\n@@\n-two\n+TWO\n*** End Patch"},
	{"move only", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n*** Move to: g\n*** End Patch"},
	{"update nothing", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n*** End Patch"},
	{"update without effect", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n one\n two\n*** End Patch"},
	{"update missing", nil, "*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n*** End Patch"},
	{"context missing", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n one\n-three\n+THREE\n*** End Patch"},
	{"trailing space", map[string]string{"f": "one  \ntwo\t\nthree\n"}, "*** Begin Patch\n*** Update File: f\n@@\n one\n-two\n+TWO\n*** End Patch"},
	{"indentation", map[string]string{"f": "    one\n    two\n"}, "*** Begin Patch\n*** Update File: f\n@@\n one\n-two\n+TWO\n*** End Patch"},
	{"punctuation", map[string]string{"f": "say \u201chi\u201d \u2014 it\u2019s\u00a0me\nnext\n"}, "*** Begin Patch\n*** Update File: f\n@@\n say \"hi\" - it's me\n-next\n+NEXT\n*** End Patch"},
	{"crlf", map[string]string{"f": "one\r\ntwo\r\nthree\r\n"}, "*** Begin Patch\n*** Update File: f\n@@\n one\n-two\n+TWO\n+and more\n*** End Patch"},
	{"crlf patch", map[string]string{"f": "one\ntwo\n"}, "*** Begin Patch\r\n*** Update File: f\r\n@@\r\n one\r\n-two\r\n+TWO\r\n*** End Patch\r\n"},
	{"heredoc", map[string]string{"f": numbers}, "<<'EOF'\n*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n*** End Patch\nEOF\n"},
	{"blank around", map[string]string{"f": numbers}, "\n\n *** Begin Patch \n *** Update File: f \n@@\n-two\n+TWO\n *** End Patch \n\n"},
	{"empty context line", map[string]string{"f": "a\n\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n\n-b\n+c\n*** End Patch"},
	{"several files", map[string]string{"f": numbers, "g": "gone\n"}, "*** Begin Patch\n*** Add File: z\n+z\n*** Delete File: g\n*** Update File: f\n@@\n-two\n+TWO\n*** Add File: a\n+a\n*** End Patch"},
	{"one of two fails", map[string]string{"f": numbers}, "*** Begin Patch\n*** Add File: z\n+z\n*** Update File: f\n@@\n-zwei\n+TWO\n*** End Patch"},
	{"no begin", nil, "*** Add File: z\n+z\n*** End Patch"},
	{"no end", nil, "*** Begin Patch\n*** Add File: z\n+z\n"},
	{"empty patch", nil, "*** Begin Patch\n*** End Patch"},
	{"unknown header", nil, "*** Begin Patch\n*** Frobnicate File: z\n+z\n*** End Patch"},
	{"add line without plus", nil, "*** Begin Patch\n*** Add File: z\n+z\nplain\n*** End Patch"},
	{"bad line", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\nfoo\n*** End Patch"},
	{"git style hunk header", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n*** End Patch"},
	{"end marker @@", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@ two @@\n-three\n+THREE\n*** End Patch"},
	{"quotes and unicode", map[string]string{"f": "naïve\n日本\n"}, "*** Begin Patch\n*** Update File: f\n@@\n naïve\n-日本\n+日本語 🎉\n*** End Patch"},
	{"same file twice", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n*** Update File: f\n@@\n-nine\n+NINE\n*** End Patch"},
	{"overlapping hunks", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n-two\n+TWO\n three\n@@\n three\n-four\n+FOUR\n*** End Patch"},
	{"long file", map[string]string{"f": numbers + numbers + numbers}, "*** Begin Patch\n*** Update File: f\n@@\n ten\n-one\n+ONE\n*** End Patch"},
	{"trailing empty old line", map[string]string{"f": "a\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n-b\n-\n+c\n+\n*** End Patch"},
	{"parent directory", nil, "*** Begin Patch\n*** Add File: sub/../x\n+x\n*** End Patch"},
	{"end of file elsewhere", map[string]string{"f": numbers}, "*** Begin Patch\n*** Update File: f\n@@\n two\n-three\n+THREE\n*** End of File\n*** End Patch"},
	{"delete directory", map[string]string{"d/f": "x\n"}, "*** Begin Patch\n*** Delete File: d\n*** End Patch"},
	{"blank line between files", map[string]string{"f": numbers}, "*** Begin Patch\n*** Add File: z\n+z\n\n*** Update File: f\n@@\n-two\n+TWO\n\n*** End Patch"},
	{"only blanks changed", map[string]string{"f": "a\n\n\nb\n"}, "*** Begin Patch\n*** Update File: f\n@@\n a\n-\n-\n+\n b\n*** End Patch"},
	{"repeated lines", map[string]string{"f": "x\nx\nx\nx\n"}, "*** Begin Patch\n*** Update File: f\n@@\n x\n-x\n+y\n*** End Patch"},
	{"move to itself", map[string]string{"f": "x\n"}, "*** Begin Patch\n*** Update File: f\n*** Move to: f\n@@\n-x\n+y\n*** End Patch"},
}

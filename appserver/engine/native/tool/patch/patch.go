// Package patch reads, resolves and applies the freeform patch format that
// Codex models write:
//
//	*** Begin Patch
//	*** Add File: path          followed by lines that start with +
//	*** Delete File: path
//	*** Update File: path
//	*** Move to: path           optional
//	@@ anchor                   optional: continue below the next line like it
//	 context, -removed, +added
//	*** End of File             optional: the hunk ends the file
//	*** End Patch
//
// [Parse] reads the text, [Patch.Resolve] computes every result against the
// files as they are without writing anything, [Change.Apply] writes. The errors
// of the first two are sentences a model can act upon.
//
// What the real Codex 0.169 accepts gives the same files and the same
// descriptions here. Four things Codex refuses are understood: several anchors
// in a row, hunk headers as in unified diffs, a move without a change, and
// several sections for one file. Two things differ on purpose: lines added
// right below an anchor go there instead of to the end of the file, and a file
// "moved" to its own path is not deleted.
package patch

// Limits.
const (
	// MaxPatch bounds the patch text in bytes: models write kilobytes.
	MaxPatch = 16 << 20
	// MaxFile bounds a file that a patch changes, in bytes.
	MaxFile = 64 << 20
	// MaxFiles bounds the number of sections of one patch.
	MaxFiles = 1000
)

// The operations of a section.
const (
	opAdd    = "add"
	opDelete = "delete"
	opUpdate = "update"
)

// Patch is a parsed patch.
type Patch struct {
	sections []section
}

// section is what the patch does to one file.
type section struct {
	op     string
	path   string // as written
	moveTo string // update only, as written
	text   string // add only
	chunks []chunk
}

// chunk is one run of lines with its context.
type chunk struct {
	anchors []string
	lines   []line
	eof     bool
}

// line is one line of a chunk; kind is ' ', '-' or '+'.
type line struct {
	kind byte
	text string
}

// old lists the lines the file must hold.
func (c *chunk) old() []string {
	var out []string
	for _, l := range c.lines {
		if l.kind != '+' {
			out = append(out, l.text)
		}
	}
	return out
}

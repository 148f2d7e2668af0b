// Package patch reads, resolves and applies the freeform patch format that
// Codex models write:
//
//	*** Begin Patch
//	*** Add File: path          followed by lines that start with +
//	*** Delete File: path
//	*** Update File: path
//	*** Move to: path           optional
//	@@ anchor                   optional: go below the first line equal to it
//	 context, -removed, +added
//	*** End of File             optional: the hunk ends the file
//	*** End Patch
//
// [Parse] reads the text, [Patch.Resolve] computes every result against the
// files as they are without writing anything, [Change.Apply] writes. The errors
// of the first two are sentences a model can act upon.
package patch

import "towline/appserver/protocol"

// Limits.
const (
	// MaxPatch bounds the patch text in bytes: models write kilobytes.
	MaxPatch = 16 << 20
	// MaxFile bounds a file that a patch touches, in bytes.
	MaxFile = 64 << 20
	// MaxFiles bounds the number of files of one patch.
	MaxFiles = 1000
)

// Patch is a parsed patch.
type Patch struct {
	files []file
}

// file is one *** section.
type file struct {
	op     string // "add", "delete" or "update"
	path   string // as written
	moveTo string // update only
	text   string // add only
	chunks []chunk
	line   int // of the header in the patch, from 1
}

// chunk is one run of changed lines with its context.
type chunk struct {
	anchors []string
	old     []string
	new     []string
	eof     bool
	line    int
}

// Change is a resolved patch: what will be on disk, not yet written.
type Change struct {
	// Updates is what a fileChange item shows.
	Updates []protocol.FileUpdate
	edits   []edit
}

// edit is one file before and after.
type edit struct {
	path   string // absolute
	moveTo string // absolute, "" when it stays
	before []byte // nil when it did not exist
	after  []byte // nil when it is deleted
	had    bool
	keep   bool // false: removed
}

package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"towline/config/osfile"
)

// maxTries bounds how often a log is read anew because files changed meanwhile.
const maxTries = 50

// Report is what Verify found.
type Report struct {
	Entries int64    `json:"entries"`
	First   int64    `json:"first"` // the number of the first entry; more than 1 where old files were deleted, as configured
	Last    int64    `json:"last"`
	Hash    string   `json:"hash"` // of the last entry: who remembers it can show later that nothing before it was touched
	Files   []string `json:"files"`
	// Lost counts entries that were not written, by the log's own account.
	Lost int `json:"lost"`
}

// Verify checks the chain through all files of the log at path. Its error names
// the file and the first line that does not hold; the report then covers what is
// before it. A log that is being written to can be verified.
func Verify(path string) (Report, error) {
	for tries := 0; ; tries++ {
		before, err := Files(path)
		if err != nil {
			return Report{}, err
		}
		report, err := verify(path, before)
		if err == nil || tries == maxTries {
			return report, err
		}
		if after, no := Files(path); no != nil || slices.Equal(after, before) {
			return report, err
		}
		// A new file was begun meanwhile: what was read is not one moment's log.
	}
}

func verify(path string, files []string) (Report, error) {
	// The head is read first: what is written meanwhile only makes it older.
	head, err := headNow(path)
	if err != nil {
		return Report{}, err
	}
	v := &verifier{hash: zeroHash}
	for _, name := range files {
		if err := v.file(name, name == path); err != nil {
			return v.Report, err
		}
	}
	return v.Report, v.finish(head)
}

// Files lists the log's files, oldest entries first.
func Files(path string) ([]string, error) {
	list, err := fullFiles(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range list {
		out = append(out, f.path)
	}
	if _, err := os.Stat(path); err == nil {
		out = append(out, path)
	} else if len(out) == 0 {
		return nil, fmt.Errorf("open audit file: %w", err)
	}
	return out, nil
}

func headNow(path string) (*end, error) {
	f, err := os.OpenFile(headPath(path), os.O_RDONLY|osfile.NoFollow, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open audit.head: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only
	return readHead(f)
}

// verifier follows the chain.
type verifier struct {
	Report
	hash   string // of the entry before
	begins string // the first entry's prev, where that is not the first of all
	pruned bool   // and an entry says why
	cut    error  // what the log itself says is missing
}

// file checks one file; only the one written to may end in a fragment.
func (v *verifier) file(name string, current bool) error {
	f, err := os.OpenFile(name, os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return fmt.Errorf("open audit file: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only
	v.Files = append(v.Files, name)
	if err := v.read(f, current); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

func (v *verifier) read(r io.Reader, current bool) error {
	br := bufio.NewReaderSize(r, 64<<10)
	torn, tornLine := "", 0
	for n := 1; ; n++ {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) {
			switch {
			case tornLine > 0:
				return fmt.Errorf("line %d is not an audit entry", tornLine)
			case len(line) > 0 && !current:
				return fmt.Errorf("line %d is incomplete", n)
			case len(line) > 0:
				return fmt.Errorf("line %d is incomplete: its writer was killed, the next start notes it", n)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		row, hash, ok := checkRow(line)
		switch {
		case !ok && tornLine > 0:
			return fmt.Errorf("line %d is not an audit entry", tornLine)
		case !ok:
			sum := sha256.Sum256(line)
			torn, tornLine = hex.EncodeToString(sum[:]), n
			continue
		case tornLine > 0 && (row.Event != eventTorn || row.SHA256 != torn):
			return fmt.Errorf("line %d is not an audit entry", tornLine)
		case v.Entries == 0 && row.Seq > 1:
			v.begins = row.Prev // an entry must say that what was before was deleted
		case row.Prev != v.hash:
			return fmt.Errorf("line %d does not follow the line before it", n)
		case row.Seq != v.Last+1:
			return fmt.Errorf("line %d has number %d, want %d", n, row.Seq, v.Last+1)
		}
		torn, tornLine = "", 0
		v.take(row, hash)
	}
}

// readLine is the next line without its newline; one that is too long to be an
// entry is cut.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line) <= maxRow {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil {
			line = line[:len(line)-1]
		}
		return line, err
	}
}

func (v *verifier) take(r row, hash string) {
	if v.Entries == 0 {
		v.First = r.Seq
	}
	v.Entries++
	v.Last, v.hash, v.Hash = r.Seq, hash, hash
	switch r.Event {
	case eventPruned:
		v.pruned = v.pruned || r.Through == v.First-1 && r.PrunedTo == v.begins
	case eventCut:
		if v.cut == nil {
			v.cut = fmt.Errorf("entry %d says that entries up to %d had been written and were gone", r.Seq, r.Was)
		}
	case eventLate:
		v.Lost += r.Lost
	}
}

// finish holds the end against what audit.head says.
func (v *verifier) finish(head *end) error {
	switch {
	case v.begins != "" && !v.pruned:
		return fmt.Errorf("entries before %d are missing", v.First)
	case v.cut != nil:
		return v.cut
	case head != nil && head.seq > v.Last:
		return fmt.Errorf("the log ends at entry %d, and %s were written: the end was cut off", v.Last, upTo(head.seq))
	case head != nil && head.seq == v.Last && v.Last > 0 && head.hash != v.Hash:
		return fmt.Errorf("entry %d is not the one that was written", v.Last)
	}
	return nil
}

func upTo(seq int64) string {
	if seq == 1<<63-1 {
		return "others"
	}
	return fmt.Sprintf("%d", seq)
}

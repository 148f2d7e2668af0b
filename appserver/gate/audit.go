package gate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"towline/appserver/access"
	"towline/appserver/rpc"
	"towline/config/osfile"
)

// # The audit file
//
// One JSON object a line, oldest first:
//
//	{"seq":N,"at":TIME,"event":E,"who":{…},…facts…,"prev":HEX,"hash":HEX}
//
// hash is the last member: the SHA-256 of every byte of the line before
// `,"hash":`, and prev is the hash of the line before (64 zeros in the first).
// So no line can be changed, removed or inserted without breaking the chain at
// that line; cutting whole lines off the end is the one thing a chain cannot show.
//
// A writer killed in the middle of a line leaves a torn last line. The next
// start ends it and appends a line with event "torn" that holds the SHA-256 of
// the fragment; the chain skips the fragment.
const (
	auditTorn   = "torn"
	zeroHash    = "0000000000000000000000000000000000000000000000000000000000000000"
	hashMember  = `,"hash":"`
	hashTail    = len(hashMember) + sha256.Size*2 + len(`"}`)
	maxAuditRow = 1 << 20 // a line longer than this is not ours
	// maxAuditText bounds one fact: nobody may keep an entry out of the file by
	// making it too long for a line.
	maxAuditText = 4 << 10
	// lockTries and lockPause are how long somebody else may have the file.
	lockTries = 10
	lockPause = 20 * time.Millisecond
)

// Audit is the append-only record of who did what. No prompt text, no answers'
// free text, no secrets. Its methods may be called concurrently; a nil *Audit
// records nothing.
type Audit struct {
	log  *slog.Logger
	mu   sync.Mutex // guards what follows
	f    *os.File
	seq  int64
	prev string
}

// OpenAudit opens the file at path for appending, creating it with mode 0600.
// It refuses a file that others may read and one another process appends to. It
// continues the chain from the last whole line; verifying what is before it is
// VerifyAudit's job.
func OpenAudit(path string, log *slog.Logger) (*Audit, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|osfile.NoFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit file: %w", err)
	}
	a := &Audit{log: log, f: f, prev: zeroHash}
	if err := a.resume(path); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return a, nil
}

func (a *Audit) resume(path string) error {
	st, err := a.f.Stat()
	if err != nil {
		return fmt.Errorf("open audit file: %w", err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 && osfile.ModesMean {
		return fmt.Errorf("%s has mode %#o, want 0600", path, m)
	}
	// A command that notes something about a credential has the file for a moment.
	err = osfile.Lock(a.f)
	for range lockTries {
		if !errors.Is(err, osfile.ErrLocked) {
			break
		}
		time.Sleep(lockPause)
		err = osfile.Lock(a.f)
	}
	if err != nil {
		return fmt.Errorf("%s is in use by another towline: %w", path, err)
	}
	if st, err = a.f.Stat(); err != nil { // it may have grown meanwhile
		return fmt.Errorf("open audit file: %w", err)
	}
	tail, whole, err := lastLines(a.f, st.Size())
	if err != nil {
		return fmt.Errorf("read audit file: %w", err)
	}
	if whole != nil {
		var row struct {
			Seq  int64  `json:"seq"`
			Hash string `json:"hash"`
		}
		if err := json.Unmarshal(whole, &row); err != nil || len(row.Hash) != sha256.Size*2 {
			return fmt.Errorf("%s ends in a line that is not an audit entry; move it away to start a new chain", path)
		}
		a.seq, a.prev = row.Seq, row.Hash
	}
	if len(tail) > 0 {
		if _, err := a.f.Write([]byte("\n")); err != nil {
			return fmt.Errorf("end the torn line of the audit file: %w", err)
		}
		if row, hash, ok := checkRow(tail); ok && row.Prev == a.prev { // only the newline was missing
			a.seq, a.prev = row.Seq, hash
			return nil
		}
		sum := sha256.Sum256(tail)
		a.Record(auditTorn, access.Principal{}, slog.Int("bytes", len(tail)), slog.String("sha256", hex.EncodeToString(sum[:])))
	}
	return nil
}

// lastLines returns the fragment after the last newline and the last whole line.
func lastLines(f *os.File, size int64) (tail, whole []byte, err error) {
	n := min(size, 2*maxAuditRow)
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, size-n); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	end := bytes.LastIndexByte(buf, '\n')
	tail = buf[end+1:]
	if end >= 0 {
		whole = buf[bytes.LastIndexByte(buf[:end], '\n')+1 : end]
	}
	return tail, whole, nil
}

// Record appends one entry. It does not fail towards its caller: an entry that
// cannot be written is logged as an error, with what it would have said.
func (a *Audit) Record(event string, p access.Principal, attrs ...slog.Attr) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.appendLocked(event, p, attrs); err != nil {
		a.log.LogAttrs(context.Background(), slog.LevelError, "audit entry lost",
			append([]slog.Attr{slog.String("event", event), slog.Any("err", err)}, attrs...)...)
	}
}

func (a *Audit) appendLocked(event string, p access.Principal, attrs []slog.Attr) error {
	if a.f == nil {
		return rpc.ErrClosed
	}
	var line bytes.Buffer
	member := func(key string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		sep := byte(',')
		if line.Len() == 0 {
			sep = '{'
		}
		line.WriteByte(sep)
		k, _ := json.Marshal(key) // a string always marshals
		line.Write(k)
		line.WriteByte(':')
		line.Write(b)
		return nil
	}
	err := errors.Join(
		member("seq", a.seq+1),
		member("at", time.Now().UTC().Format(time.RFC3339Nano)),
		member("event", event),
	)
	if p.Kind != "" {
		err = errors.Join(err, member("who", map[string]string{
			"kind": string(p.Kind), "id": p.ID, "name": p.Name, "role": p.Role.String(),
		}))
	}
	for _, at := range attrs {
		v := at.Value.Resolve()
		switch v.Kind() {
		case slog.KindString:
			err = errors.Join(err, member(at.Key, clip(v.String(), maxAuditText)))
		case slog.KindDuration:
			err = errors.Join(err, member(at.Key, v.Duration().String()))
		case slog.KindAny:
			if e, ok := v.Any().(error); ok {
				err = errors.Join(err, member(at.Key, clip(e.Error(), maxAuditText)))
				break
			}
			err = errors.Join(err, member(at.Key, v.Any()))
		default:
			err = errors.Join(err, member(at.Key, v.Any()))
		}
	}
	err = errors.Join(err, member("prev", a.prev))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(line.Bytes())
	hash := hex.EncodeToString(sum[:])
	line.WriteString(hashMember + hash + "\"}\n")
	if line.Len() > maxAuditRow {
		return fmt.Errorf("entry of %d bytes is too long", line.Len())
	}
	if n, err := a.f.Write(line.Bytes()); err != nil {
		if st, serr := a.f.Stat(); n > 0 && serr == nil {
			err = errors.Join(err, a.f.Truncate(st.Size()-int64(n))) // a full disk must not leave half a line
		}
		return err
	}
	a.seq, a.prev = a.seq+1, hash
	return nil
}

// Sync makes what was recorded survive a power cut.
func (a *Audit) Sync() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return rpc.ErrClosed
	}
	return a.f.Sync()
}

// Close syncs and closes the file. It is idempotent.
func (a *Audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return nil
	}
	err := errors.Join(a.f.Sync(), a.f.Close())
	a.f = nil
	return err
}

// VerifyAudit reads the whole file at path and checks the chain. It returns how
// many entries hold; the error names the first line that does not.
func VerifyAudit(path string) (entries int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open audit file: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only
	return verifyAudit(f)
}

func verifyAudit(r io.Reader) (entries int, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	prev, torn := zeroHash, ""
	tornLine := 0
	for n := 1; ; n++ {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			switch {
			case tornLine > 0:
				return entries, fmt.Errorf("line %d is not an audit entry", tornLine)
			case len(line) > 0:
				return entries, fmt.Errorf("line %d is incomplete: its writer was killed, the next start notes it", n)
			}
			return entries, nil
		}
		if err != nil {
			return entries, fmt.Errorf("line %d: %w", n, err)
		}
		line = line[:len(line)-1]
		row, hash, ok := checkRow(line)
		if !ok {
			if tornLine > 0 {
				return entries, fmt.Errorf("line %d is not an audit entry", tornLine)
			}
			sum := sha256.Sum256(line)
			torn, tornLine = hex.EncodeToString(sum[:]), n
			continue
		}
		switch {
		case tornLine > 0 && (row.Event != auditTorn || row.SHA256 != torn):
			return entries, fmt.Errorf("line %d is not an audit entry", tornLine)
		case row.Prev != prev:
			return entries, fmt.Errorf("line %d does not follow the line before it", n)
		case row.Seq != int64(entries)+1:
			return entries, fmt.Errorf("line %d has number %d, want %d", n, row.Seq, entries+1)
		}
		prev, torn, tornLine = hash, "", 0
		entries++
	}
}

type auditRow struct {
	Seq    int64  `json:"seq"`
	Event  string `json:"event"`
	SHA256 string `json:"sha256"`
	Prev   string `json:"prev"`
}

// checkRow reads a line and recomputes its hash.
func checkRow(line []byte) (row auditRow, hash string, ok bool) {
	cut := len(line) - hashTail
	if cut <= 0 || !bytes.HasPrefix(line[cut:], []byte(hashMember)) || !json.Valid(line) || json.Unmarshal(line, &row) != nil {
		return row, "", false
	}
	hash = string(line[cut+len(hashMember) : len(line)-len(`"}`)])
	sum := sha256.Sum256(line[:cut])
	return row, hash, hash == hex.EncodeToString(sum[:])
}

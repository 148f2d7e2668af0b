package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Manager owns the processes of one thread or connection. It is safe for
// concurrent use. Make it with NewManager, end it with Close.
type Manager struct {
	cfg Config

	mu     sync.Mutex
	procs  []*Process // oldest first; running and remembered
	lastID int
	closed bool
}

// NewManager makes a Manager. It starts nothing.
func NewManager(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, lastID: firstID(time.Now())}
}

// firstID is where a manager begins to count. A model may name a process of the
// thread's earlier life, which must then be unknown and not the newer one that
// happens to have its number: managers begin ten further with every second. After
// a day they begin anew, so that the numbers stay short.
func firstID(now time.Time) int { return 1000 + 10*int(now.Unix()%86400) }

// Start runs c. When ctx ends the process is killed, so ctx must live as long
// as the process may: a session that outlives a call needs a context that does.
// The error is a sentence fit for a model.
func (m *Manager) Start(ctx context.Context, c Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("there is no command to run")
	}
	if !filepath.IsAbs(c.Cwd) {
		return nil, fmt.Errorf("the working directory %q is not an absolute path", c.Cwd)
	}
	if st, err := os.Stat(c.Cwd); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("the working directory %s does not exist or is not a directory", c.Cwd)
	}
	if c.OutputCap <= 0 {
		c.OutputCap = DefaultOutputCap
	}
	p := &Process{
		cmd: c, patience: writeTimeout, done: make(chan struct{}), exited: make(chan struct{}), log: m.cfg.Log,
		out: newClip(c.OutputCap), err: newClip(c.OutputCap), all: newClip(c.OutputCap), fresh: newClip(c.OutputCap),
	}
	if err := m.admit(p); err != nil {
		return nil, err
	}
	var base []string
	if m.cfg.Env != nil {
		if base = m.cfg.Env(); base == nil {
			base = []string{}
		}
	}
	if err := p.start(base, m.cfg.Sandbox); err != nil {
		m.forget(p)
		close(p.done)
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	go func() {
		p.run()
		stop()
	}()
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed { // Close ran between admit and start and saw nothing to kill
		p.Kill()
	}
	return p, nil
}

// admit gives p an id and a place, forgetting the oldest exited process when
// there are too many to remember.
func (m *Manager) admit(p *Process) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	running, oldest := 0, -1
	for i, q := range m.procs {
		if !q.over() {
			running++
		} else if oldest < 0 {
			oldest = i
		}
	}
	if running >= MaxProcesses {
		return ErrTooMany
	}
	if len(m.procs)-running >= MaxProcesses {
		m.procs = append(m.procs[:oldest:oldest], m.procs[oldest+1:]...)
	}
	if id := p.cmd.Instead; id != "" {
		// It may have been forgotten meanwhile; its number was not given again.
		if i := slices.IndexFunc(m.procs, func(q *Process) bool { return q.id == id }); i >= 0 {
			if !m.procs[i].over() {
				return fmt.Errorf("process %s still runs", id)
			}
			m.procs = append(m.procs[:i:i], m.procs[i+1:]...)
		}
		p.id = id
	} else {
		m.lastID++
		p.id = strconv.Itoa(m.lastID)
	}
	m.procs = append(m.procs, p)
	return nil
}

func (m *Manager) forget(p *Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, q := range m.procs {
		if q == p {
			m.procs = append(m.procs[:i:i], m.procs[i+1:]...)
			return
		}
	}
}

// Get finds a process by its id, running or still remembered.
func (m *Manager) Get(id string) (*Process, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.procs {
		if p.id == id {
			return p, true
		}
	}
	return nil, false
}

// Running lists the processes that have not ended, oldest first.
func (m *Manager) Running() []*Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Process
	for _, p := range m.procs {
		if !p.over() {
			out = append(out, p)
		}
	}
	return out
}

// Close kills every process with its children and returns when all have ended.
// Further starts fail with ErrClosed.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	procs := m.procs
	m.mu.Unlock()
	for _, p := range procs {
		p.Kill()
	}
	for _, p := range procs {
		<-p.done
	}
}

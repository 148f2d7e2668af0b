package native

import (
	"encoding/json"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Bounds of the processes clients run.
const (
	maxProcesses   = 32               // of one connection
	defaultTimeout = 60 * time.Second // of one that streams nothing and names no limit
	noOutputCap    = 16 << 20         // what "no cap" means, per stream: both must fit in a message
	writesWaiting  = 64               // inputs a process may have unread
	timedOut       = 124              // exit code of a command that ran out of time, as timeout(1)
)

// The two families of client processes. Their ids live in separate name spaces.
const (
	kindExec  = "command/exec"
	kindSpawn = "process/spawn"
)

// terminalSize is in character cells.
type terminalSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// launch is what command/exec and process/spawn have in common.
type launch struct {
	Command       []string           `json:"command"`
	Env           map[string]*string `json:"env"`
	TTY           bool               `json:"tty"`
	Size          *terminalSize      `json:"size"`
	StreamStdin   bool               `json:"streamStdin"`
	StreamOutput  bool               `json:"streamStdoutStderr"`
	OutputCap     *int64             `json:"outputBytesCap"`
	TimeoutMs     *int64             `json:"timeoutMs"`
	cwd           string
	uncapped      bool
	unlimited     bool
	policy        protocol.SandboxPolicy
	kind, id, key string // key is what notifications call the id
}

func (c *conn) commandExec(r *rpc.Request) (any, error) {
	var p struct {
		launch
		Cwd       *string                 `json:"cwd"`
		ProcessID string                  `json:"processId"`
		NoCap     bool                    `json:"disableOutputCap"`
		NoTimeout bool                    `json:"disableTimeout"`
		Policy    *protocol.SandboxPolicy `json:"sandboxPolicy"`
		Profile   *string                 `json:"permissionProfile"`
	}
	if err := decode(r, &p, "command"); err != nil {
		return nil, err
	}
	switch {
	case p.ProcessID == "" && (p.TTY || p.StreamStdin || p.StreamOutput):
		return nil, protocol.Errorf("command/exec tty or streaming requires a client-supplied processId")
	case p.Size != nil && !p.TTY:
		return nil, protocol.Errorf("command/exec size requires tty: true")
	case p.NoCap && p.OutputCap != nil:
		return nil, protocol.Errorf("command/exec cannot set both outputBytesCap and disableOutputCap")
	case p.NoTimeout && p.TimeoutMs != nil:
		return nil, protocol.Errorf("command/exec cannot set both timeoutMs and disableTimeout")
	case p.Policy != nil && p.Profile != nil:
		return nil, protocol.Errorf("command/exec cannot set both sandboxPolicy and permissionProfile")
	}
	s := c.e.defaults()
	if err := c.e.apply(&overrides{Cwd: p.Cwd, SandboxPolicy: p.Policy, Permissions: p.Profile}, &s); err != nil {
		return nil, err
	}
	l := p.launch
	l.kind, l.id, l.key, l.cwd, l.policy, l.uncapped = kindExec, p.ProcessID, "processId", s.Cwd, s.Sandbox, p.NoCap
	l.unlimited = p.NoTimeout || l.TimeoutMs == nil && (l.TTY || l.StreamOutput)
	pr, wait, err := c.launch(&l)
	if err != nil {
		return nil, err
	}
	code := wait()
	stdout, _ := pr.proc.Stdout()
	stderr, _ := pr.proc.Stderr()
	if l.StreamOutput || l.TTY {
		stdout, stderr = "", ""
	}
	return map[string]any{"exitCode": code, "stdout": stdout, "stderr": stderr}, nil
}

func (c *conn) processSpawn(r *rpc.Request) (any, error) {
	var p struct {
		launch
		Cwd    absPath `json:"cwd"`
		Handle string  `json:"processHandle"`
	}
	if err := decode(r, &p, "command", "cwd", "processHandle"); err != nil {
		return nil, err
	}
	if p.Size != nil && !p.TTY {
		return nil, protocol.Errorf("process/spawn size requires tty: true")
	}
	l := p.launch
	l.kind, l.id, l.key, l.cwd = kindSpawn, p.Handle, "processHandle", string(p.Cwd)
	l.policy = protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}
	// Null lifts a limit, absence means the usual one.
	l.uncapped = isNull(protocol.Field(r.Params, "outputBytesCap"))
	l.unlimited = isNull(protocol.Field(r.Params, "timeoutMs")) || l.TimeoutMs == nil && (l.TTY || l.StreamOutput)
	pr, wait, err := c.launch(&l)
	if err != nil {
		return nil, err
	}
	r.Reply(nil)
	c.work.Go(func() {
		code := wait()
		stdout, outCut := pr.proc.Stdout()
		stderr, errCut := pr.proc.Stderr()
		if l.StreamOutput || l.TTY {
			stdout, stderr = "", ""
		}
		c.notify("process/exited", map[string]any{
			"processHandle": l.id, "exitCode": code, "stdout": stdout, "stderr": stderr,
			"stdoutCapReached": outCut, "stderrCapReached": errCut,
		})
	})
	return nil, nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func (c *conn) commandExecWrite(r *rpc.Request) (any, error) {
	var p struct {
		ID    string `json:"processId"`
		Data  string `json:"deltaBase64"`
		Close bool   `json:"closeStdin"`
	}
	if err := decode(r, &p, "processId"); err != nil {
		return nil, err
	}
	return nil, c.write(r, kindExec, p.ID, p.Data, p.Close)
}

func (c *conn) commandExecResize(r *rpc.Request) (any, error) {
	var p struct {
		ID   string       `json:"processId"`
		Size terminalSize `json:"size"`
	}
	if err := decode(r, &p, "processId", "size"); err != nil {
		return nil, err
	}
	return nil, c.resize(kindExec, p.ID, p.Size)
}

func (c *conn) commandExecTerminate(r *rpc.Request) (any, error) {
	var p struct {
		ID string `json:"processId"`
	}
	if err := decode(r, &p, "processId"); err != nil {
		return nil, err
	}
	return nil, c.kill(kindExec, p.ID)
}

func (c *conn) processWriteStdin(r *rpc.Request) (any, error) {
	var p struct {
		Handle string `json:"processHandle"`
		Data   string `json:"deltaBase64"`
		Close  bool   `json:"closeStdin"`
	}
	if err := decode(r, &p, "processHandle"); err != nil {
		return nil, err
	}
	return nil, c.write(r, kindSpawn, p.Handle, p.Data, p.Close)
}

func (c *conn) processResizePty(r *rpc.Request) (any, error) {
	var p struct {
		Handle string       `json:"processHandle"`
		Size   terminalSize `json:"size"`
	}
	if err := decode(r, &p, "processHandle", "size"); err != nil {
		return nil, err
	}
	return nil, c.resize(kindSpawn, p.Handle, p.Size)
}

func (c *conn) processKill(r *rpc.Request) (any, error) {
	var p struct {
		Handle string `json:"processHandle"`
	}
	if err := decode(r, &p, "processHandle"); err != nil {
		return nil, err
	}
	return nil, c.kill(kindSpawn, p.Handle)
}

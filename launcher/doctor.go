package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Statuses of a Finding.
const (
	FindingOK      = "ok"
	FindingNote    = "note" // worth knowing, nothing is broken
	FindingFailed  = "failed"
	FindingSkipped = "skipped" // what it needs did not work
)

// Finding is one thing doctor looked at. Text from the other side is stripped.
type Finding struct {
	Stage  string        `json:"stage"` // of a connection; or "machine"
	Name   string        `json:"name"`  // which hop, or what was looked at
	Status string        `json:"status"`
	Text   string        `json:"text"`            // what was found
	Cause  string        `json:"cause,omitempty"` // why it failed
	Next   []string      `json:"next,omitempty"`  // what to type
	Took   time.Duration `json:"tookNs"`
}

// Diagnosis is a walk through all stages.
type Diagnosis struct {
	Host     string            `json:"host"`
	Version  string            `json:"version"` // of this program
	At       time.Time         `json:"at"`
	OK       bool              `json:"ok"`
	Took     time.Duration     `json:"tookNs"`
	Findings []Finding         `json:"findings"`
	Report   *bootstrap.Report `json:"report,omitempty"`
	Choice   *bootstrap.Choice `json:"choice,omitempty"`
}

// doctor collects findings while the stages are walked.
type doctor struct {
	d    *Diagnosis
	tell func(Finding)

	mu   sync.Mutex // guards what follows: events come from several goroutines
	last map[string]string
}

func (d *doctor) add(f Finding) {
	f.Text, f.Cause = oneLine(f.Text), oneLine(f.Cause)
	d.mu.Lock()
	d.d.Findings = append(d.d.Findings, f)
	d.mu.Unlock()
	if d.tell != nil {
		d.tell(f)
	}
}

// event turns the end of a stage into a finding.
func (d *doctor) event(e remote.Event) {
	key := e.Stage + "\x00" + e.Hop
	if e.Detail || e.Waiting {
		return
	}
	if e.Text != "" {
		d.mu.Lock()
		d.last[key] = e.Text
		d.mu.Unlock()
	}
	if !e.Done && e.Err == nil {
		return
	}
	d.mu.Lock()
	text := d.last[key]
	delete(d.last, key)
	d.mu.Unlock()
	f := Finding{Stage: e.Stage, Name: e.Hop, Status: FindingOK, Text: text, Took: e.Took}
	if e.Err != nil {
		f.Status, f.Cause, f.Next = FindingFailed, cause(e.Err), d.next(e.Stage, config.Hints(e.Err))
		// Some parts tell an error as text too. It is said once, as the cause.
		if f.Text == "" || strings.Contains(oneLine(f.Text), oneLine(f.Cause)) {
			f.Text = "failed"
		}
	}
	d.add(f)
}

// next is what to do about a failure, for someone who is reading this already.
func (d *doctor) next(stage string, hints []string) []string {
	hints = slices.DeleteFunc(slices.Clone(hints), func(h string) bool { return strings.Contains(h, "`towline doctor") })
	if len(hints) > 0 {
		return hints
	}
	if c := d.d.Choice; c != nil && c.Candidate.Path != "" {
		return []string{"try it there by hand: `ssh " + d.d.Host + " " + word(oneLine(c.Candidate.Path)) + " --version`"}
	}
	if h := hintFor(stage, d.d.Host); !strings.Contains(h, "towline doctor") {
		return []string{h}
	}
	return []string{"try the login shell by itself: `ssh " + d.d.Host + " true`"}
}

// cause is an error without the stage, which stands beside it.
func cause(err error) string {
	var p *config.Problem
	if errors.As(err, &p) && error(p) == err {
		return p.Err.Error()
	}
	return err.Error()
}

// note is a finding of the probe stage that is no step of its own.
func (d *doctor) note(name, status, text string, next ...string) {
	d.add(Finding{Stage: remote.StageProbe, Name: name, Status: status, Text: text, Next: next})
}

// skip says of the stages from one on that they were not reached.
func (d *doctor) skip(from string) {
	reached := false
	for _, s := range stages {
		reached = reached || s.name == from
		if reached && s.name != remote.StageInstall {
			d.add(Finding{Stage: s.name, Name: d.d.Host, Status: FindingSkipped, Text: "not reached"})
		}
	}
}

// Diagnose walks the stages of a connection one by one and says what it found at
// each. It installs nothing, but starts what a connection would start. tell,
// which may be nil, hears each finding as it is made.
func Diagnose(ctx context.Context, cfg Config, tell func(Finding)) Diagnosis {
	cfg = cfg.withDefaults()
	out := Diagnosis{Host: cfg.Host, Version: cfg.Version, At: time.Now()}
	d := &doctor{d: &out, tell: tell, last: make(map[string]string)}
	cfg.Events, cfg.Install, cfg.Fresh = nil, InstallNever, true
	s := newSession(cfg)
	d.walk(ctx, s, newProgress(cfg.Host, d.event))
	_ = s.Close()
	out.OK, out.Took = true, time.Since(out.At)
	for _, f := range out.Findings {
		if f.Status == FindingFailed {
			out.OK = false
		}
	}
	return out
}

func (d *doctor) walk(ctx context.Context, s *Session, p *progress) {
	if err := s.resolve(ctx, p); err != nil {
		d.skip(remote.StageDial)
		return
	}
	conn, err := s.cfg.parts.dial(ctx, s.dialing(p.event))
	if err != nil {
		var problem *config.Problem
		errors.As(p.fail(remote.StageDial, s.explainDial(err)), &problem)
		if problem.Stage == remote.StageDial {
			d.network(ctx, s)
		}
		d.skip(after(problem.Stage))
		return
	}
	s.adopt(conn)
	if v := oneLine(conn.Server()); v != "" {
		d.add(Finding{Stage: remote.StageAuth, Name: "ssh server", Status: FindingOK, Text: v})
	}
	o := s.cfg.options(p.event)
	p.begin(remote.StageShell, "")
	rep, err := s.cfg.parts.probe(ctx, conn, o)
	if err != nil {
		var problem *config.Problem
		errors.As(p.fail(remote.StageProbe, err), &problem)
		if rep.OS == "" && !rep.Door {
			d.skip(after(problem.Stage))
			return
		}
	}
	d.d.Report = &rep
	d.machine(rep)
	ch, err := s.cfg.parts.choose(rep, o)
	if err == nil && ch.Action == bootstrap.Offer {
		_, err = s.put(ctx, newProgress(s.cfg.Host, nil), conn, rep, ch, InstallNever)
	}
	if err != nil {
		_ = p.fail(remote.StageFind, err)
		d.candidates(rep)
		d.skip(remote.StageVersion)
		return
	}
	d.d.Choice = &ch
	p.done(remote.StageFind, oneLine(chosen(ch)))
	for _, other := range ch.Others {
		d.add(Finding{Stage: remote.StageFind, Name: "passed over", Status: FindingOK, Text: other})
	}
	d.version(ch)
	f := &found{At: time.Now(), Client: s.cfg.Version, Target: s.identity(), Report: rep, Choice: ch}
	if s.forwards() {
		d.forwarding(ctx, s, f)
	}
	st, _, err := s.open(ctx, p, conn, f)
	if err != nil {
		var problem *config.Problem
		errors.As(p.fail(remote.StageStart, err), &problem)
		d.skip(after(problem.Stage))
		return
	}
	s.keep(st)
	d.talk(ctx, s, p)
}

// after is the stage that follows one.
func after(stage string) string {
	for i, s := range stages[:len(stages)-1] {
		if s.name == stage {
			return stages[i+1].name
		}
	}
	return ""
}

// network says more about a host that could not be dialled: whether its name
// means anything here.
func (d *doctor) network(ctx context.Context, s *Session) {
	if s.target.ProxyCommand != "" || len(s.target.ProxyJump) > 0 || net.ParseIP(s.target.HostName) != nil {
		return // the name is looked up elsewhere, or is none
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	began := time.Now()
	addrs, err := net.DefaultResolver.LookupHost(ctx, s.target.HostName)
	f := Finding{Stage: remote.StageDial, Name: "name", Status: FindingOK, Took: time.Since(began)}
	if err != nil {
		// Why it could not be dialled, and so nothing more that is broken.
		f.Status, f.Text, f.Cause = FindingNote, s.target.HostName+" has no address here", err.Error()
		f.Next = []string{"see which names you have: `towline hosts`", "ask the system: `getent hosts " + oneLine(s.target.HostName) + "`"}
	} else {
		f.Text = s.target.HostName + " is " + strings.Join(addrs[:min(len(addrs), 4)], ", ")
	}
	d.add(f)
}

func (d *doctor) forwarding(ctx context.Context, s *Session, f *found) {
	began := time.Now()
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	f.Agent = s.holdAgent(ctx, conn)
	if f.Agent == "" {
		d.note("agent", FindingNote, "ssh_config forwards the agent, but this host did not take it", "allow it there: AllowAgentForwarding yes in sshd_config")
		return
	}
	d.add(Finding{Stage: remote.StageProbe, Name: "agent", Status: FindingOK, Text: "forwarded as " + f.Agent, Took: time.Since(began)})
}

// candidates lists what was found and cannot be used.
func (d *doctor) candidates(rep bootstrap.Report) {
	for _, c := range rep.Candidates {
		text := strings.TrimSpace(string(c.Kind) + " " + c.Version + " at " + c.Path)
		if c.Fault != "" {
			text += ": " + c.Fault
		}
		d.add(Finding{Stage: remote.StageFind, Name: "found", Status: FindingNote, Text: text})
	}
	if len(rep.PathSearched) > 0 {
		d.add(Finding{Stage: remote.StageFind, Name: "looked in", Status: FindingNote, Text: strings.Join(rep.PathSearched, " ")})
	}
}

func (d *doctor) version(ch bootstrap.Choice) {
	f := Finding{Stage: remote.StageVersion, Name: d.d.Host, Status: FindingOK, Text: ch.Skew.Notice}
	if f.Text == "" {
		f.Text = strings.TrimSpace(string(ch.Candidate.Kind) + " " + ch.Candidate.Version)
	}
	switch {
	case ch.Skew.Block:
		f.Status = FindingFailed
		f.Cause = "the two do not speak a common version; threads can be read, nothing can be sent"
		f.Next = []string{"put this version there, beside the other: `towline connect " + d.d.Host + " --install`"}
	case ch.Skew.Notice != "":
		f.Status = FindingNote
		if ch.Skew.Hint != "" {
			f.Next = []string{ch.Skew.Hint}
		}
	}
	d.add(f)
}

// talk says hello to the app-server and asks how it is.
func (d *doctor) talk(ctx context.Context, s *Session, p *progress) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, errors.New("no answer in time"))
	defer cancel()
	began := time.Now()
	st, err := s.Dial(ctx)
	if err != nil {
		_ = p.fail(remote.StageHandshake, err)
		d.skip(remote.StageReady)
		return
	}
	peer := rpc.NewPeer(st, silent{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = peer.Serve(ctx) })
	defer wg.Wait()
	defer peer.Close(nil)
	hello, err := greet(ctx, peer, s.cfg.Version)
	if err != nil {
		_ = p.fail(remote.StageHandshake, fmt.Errorf("initialize: %w", err))
		d.skip(remote.StageReady)
		return
	}
	d.add(Finding{Stage: remote.StageHandshake, Name: "initialize", Status: FindingOK, Text: hello, Took: time.Since(began)})
	var st2 protocol.HostStatus
	began = time.Now()
	if err := peer.Call(ctx, protocol.ExtStatus, struct{}{}, &st2); err == nil {
		d.engine(st2)
	}
	info := s.Info()
	d.add(Finding{Stage: remote.StageReady, Name: "round trip", Status: FindingOK, Text: "one question and its answer", Took: time.Since(began)})
	if info.Opened.CutEndsTurn {
		d.add(Finding{Stage: remote.StageReady, Name: "survives", Status: FindingNote, Text: "no: a cut link ends the running turn", Next: []string{"put Towline there, which keeps it: `towline connect " + d.d.Host + " --install`"}})
	} else {
		text := "a cut link costs nothing but the time"
		if !info.Opened.Resumable {
			text = "turns go on without a link; the screen reads the thread anew"
		}
		d.add(Finding{Stage: remote.StageReady, Name: "survives", Status: FindingOK, Text: text})
	}
	p.event(remote.Event{Stage: remote.StageReady, Text: s.summary(), Done: true, Took: p.elapsed()})
}

// greet sends initialize, and gives the other end's name for itself. A Towline
// gate without an engine refuses, and still is one.
func greet(ctx context.Context, peer *rpc.Peer, version string) (string, error) {
	ext, err := json.Marshal(protocol.Extension{Version: 1})
	if err != nil {
		return "", err
	}
	var hello struct {
		UserAgent string `json:"userAgent"`
	}
	err = peer.Call(ctx, "initialize", map[string]any{
		"clientInfo": map[string]any{"name": "towline-doctor", "title": "Towline doctor", "version": version},
		"capabilities": map[string]any{
			"experimentalApi": true, "requestAttestation": false,
			"extensions": map[string]json.RawMessage{"towline": ext},
		},
	}, &hello)
	var pe *protocol.Error
	if errors.As(err, &pe) && protocol.Field(pe.Data, "engine") != nil {
		return "a Towline without an engine", nil
	}
	if err != nil {
		return "", err
	}
	return hello.UserAgent, peer.Notify("initialized", nil)
}

func (d *doctor) engine(st protocol.HostStatus) {
	f := Finding{
		Stage: remote.StageReady, Name: "engine", Status: FindingOK,
		Text: strings.TrimSpace(st.Engine.Kind + " " + st.Engine.Version + " " + st.Engine.State),
	}
	switch {
	case st.Engine.State != "ready":
		f.Status, f.Cause, f.Next = FindingFailed, st.Engine.Problem, st.Engine.Hints
	case st.Engine.Problem != "":
		f.Status, f.Cause, f.Next = FindingNote, st.Engine.Problem, st.Engine.Hints
	}
	for i := range f.Next {
		f.Next[i] = oneLine(f.Next[i])
	}
	d.add(f)
	d.add(Finding{Stage: remote.StageReady, Name: "threads", Status: FindingOK, Text: fmt.Sprintf("%d working, %d waiting for you, %d attached", st.Threads.Working, st.Threads.Waiting, len(st.Attached))})
}

// silent answers nothing: doctor only asks.
type silent struct{}

func (silent) Request(_ context.Context, r *rpc.Request) {
	r.Fail(protocol.Errorf("this client only asks"))
}

func (silent) Notification(context.Context, string, json.RawMessage) {}

// word is text of a remote's as one word of a command that a person types here.
func word(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

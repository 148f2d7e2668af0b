package login

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"time"
	"unicode"

	"towline/config"
)

// The events. Which members of an Event there are depends on it:
//
//	step    Text
//	url     URL, Port, Opened      the page to open; Port is 0 when nothing waits for the browser here
//	device  URL, CompleteURL, Code, Expires
//	done    Account, Workspace, Plan, Mode, Store, Path, Fingerprint
//	failed  Stage, Error, Hints
//
// done or failed is the last one. Lines on the standard input of `towline login
// --events` are redirect addresses that a person pasted; its end says that the
// driver left, and ends the login.
const (
	EventStep   = "step"
	EventURL    = "url"
	EventDevice = "device"
	EventDone   = "done"
	EventFailed = "failed"
)

// Event is something that happened in a login: a line of `towline login
// --events` on the host, and of `towline login HOST --json` here.
type Event struct {
	Event       string     `json:"event"`
	Host        string     `json:"host,omitempty"`
	URL         string     `json:"url,omitempty"`
	CompleteURL string     `json:"completeUrl,omitempty"`
	Port        *int       `json:"port,omitempty"`
	Opened      bool       `json:"opened,omitempty"` // a browser was opened on it
	Code        string     `json:"code,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	Text        string     `json:"text,omitempty"`
	Account     string     `json:"account,omitempty"`
	Workspace   string     `json:"workspace,omitempty"`
	Plan        string     `json:"plan,omitempty"`
	Mode        string     `json:"mode,omitempty"`
	Store       string     `json:"store,omitempty"`
	Path        string     `json:"path,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty"`
	Stage       string     `json:"stage,omitempty"`
	Error       string     `json:"error,omitempty"`
	Hints       []string   `json:"hints,omitempty"`
}

// maxHints bounds how many hints of a host are passed on.
const maxHints = 8

// parseEvent reads a line of Towline's events. What is none is not ok. Text is
// stripped of control characters.
func parseEvent(line []byte) (Event, bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return Event{}, false
	}
	var e Event
	if json.Unmarshal(line, &e) != nil {
		return Event{}, false
	}
	switch e.Event {
	case EventStep, EventURL, EventDevice, EventDone, EventFailed:
	default:
		return Event{}, false
	}
	for _, s := range []*string{&e.Code, &e.Text, &e.Account, &e.Workspace, &e.Plan, &e.Mode, &e.Store, &e.Path, &e.Fingerprint, &e.Stage, &e.Error} {
		*s = config.OneLine(*s)
	}
	for _, s := range []*string{&e.URL, &e.CompleteURL} {
		*s = cleanURL(*s)
	}
	e.Hints = e.Hints[:min(len(e.Hints), maxHints)]
	for i := range e.Hints {
		e.Hints[i] = config.OneLine(e.Hints[i])
	}
	e.Host, e.Opened = "", false // ours to say
	return e, true
}

// cleanURL is a URL that may be shown and opened: printable ASCII without blanks,
// http or https, and not endless. Anything else is "".
func cleanURL(s string) string {
	const longest = 8 << 10
	if len(s) > longest || !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") {
		return ""
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return ""
		}
	}
	return s
}

// codexOutput understands what `codex login` prints for people, as 0.166 to 0.169
// do. Colours do not matter.
type codexOutput struct {
	device string   // the page of a device code, until the code comes
	saved  bool     // it said that all went well
	failed string   // what it said went wrong
	last   []string // the last lines besides, for when it does not say
}

var (
	ansi     = regexp.MustCompile("\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)|\x1b.")
	userCode = regexp.MustCompile(`^[A-Z0-9]{3,8}(-[A-Z0-9]{3,8}){1,3}$`)
)

// maxLast is how many lines are kept of what was not understood.
const maxLast = 4

// line takes one line and gives the event it makes, if any.
func (o *codexOutput) line(raw string) (Event, bool) {
	text := strings.TrimFunc(ansi.ReplaceAllString(raw, ""), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	url := cleanURL(text)
	switch {
	case url != "" && isAuthorize(url):
		a, err := parseAuthorize(url)
		if err != nil {
			return Event{}, false
		}
		return Event{Event: EventURL, URL: url, Port: &a.Port}, true
	case url != "" && strings.HasSuffix(strings.TrimRight(url, "/"), "/device"):
		o.device = url
	case o.device != "" && userCode.MatchString(text):
		e := Event{Event: EventDevice, URL: o.device, Code: text}
		o.device = ""
		return e, true
	case strings.HasPrefix(text, "Successfully logged in"), strings.HasPrefix(text, "API key saved"):
		o.saved = true
	case strings.HasPrefix(text, "Error logging in"):
		_, why, _ := strings.Cut(text, ": ")
		o.failed = config.OneLine(why)
	case text == "", strings.HasPrefix(text, "WARNING:"), strings.HasPrefix(text, "Starting local login server"),
		strings.HasPrefix(text, "If your browser did not open"), strings.HasPrefix(text, "On a remote or headless machine"):
	default:
		o.last = append(o.last, config.OneLine(text))
		o.last = o.last[max(0, len(o.last)-maxLast):]
	}
	return Event{}, false
}

// complaint is why it ended badly, as far as it said.
func (o *codexOutput) complaint() string {
	if o.failed != "" {
		return o.failed
	}
	return config.OneLine(strings.Join(o.last, " "))
}

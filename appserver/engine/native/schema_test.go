package native_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// schemas is what one installed codex says its protocol is.
type schemas struct {
	bin     string
	version string
	dir     string
	results map[string]string // method -> file of its result type, "" when there is none

	mu       sync.Mutex
	compiled map[string]*jsonschema.Schema
}

// odd are the results whose type is not named after the params.
var odd = map[string]string{
	"initialize":                 "v1/InitializeResponse",
	"config/value/write":         "v2/ConfigWriteResponse",
	"config/batchWrite":          "v2/ConfigWriteResponse",
	"configRequirements/read":    "v2/ConfigRequirementsReadResponse",
	"account/rateLimits/read":    "v2/GetAccountRateLimitsResponse",
	"account/gatewayOAuth/read":  "v2/GatewayOAuthReadResponse",
	"remoteControl/status/read":  "v2/RemoteControlStatusReadResponse",
	"remoteControl/enable":       "v2/RemoteControlEnableResponse",
	"remoteControl/disable":      "v2/RemoteControlDisableResponse",
	"account/logout":             "v2/LogoutAccountResponse",
	"account/usage/read":         "v2/GetAccountTokenUsageResponse",
	"windowsSandbox/readiness":   "v2/WindowsSandboxReadinessResponse",
	"account/securitySetup/read": "v2/GetAccountSecuritySetupResponse",
}

// installed are the schemas of every codex in TOWLINE_TEST_CODEX, written by
// those binaries when the tests start.
var installed = sync.OnceValues(func() ([]*schemas, error) {
	var out []*schemas
	for bin := range strings.SplitSeq(os.Getenv("TOWLINE_TEST_CODEX"), ":") {
		if bin == "" {
			continue
		}
		s, err := generate(bin)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", bin, err)
		}
		out = append(out, s)
	}
	return out, nil
})

// forgetSchemas removes what the binaries wrote, if they did.
func forgetSchemas() {
	if os.Getenv("TOWLINE_TEST_CODEX") == "" {
		return
	}
	list, _ := installed() // a failure was reported by the tests
	for _, s := range list {
		_ = os.RemoveAll(filepath.Dir(s.dir)) // temporary
	}
}

func generate(bin string) (*schemas, error) {
	home, err := os.MkdirTemp("", "towline-schema-*")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(home, "schema")
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(context.Background(), bin, args...)
		cmd.Env = []string{"CODEX_HOME=" + home, "HOME=" + home, "PATH=" + os.Getenv("PATH")}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.String())
		}
		return string(b), nil
	}
	version, err := run("--version")
	if err != nil {
		return nil, err
	}
	if _, err := run("app-server", "generate-json-schema", "--experimental", "--out", dir); err != nil {
		return nil, err
	}
	fields := strings.Fields(version)
	s := &schemas{bin: bin, version: fields[len(fields)-1], dir: dir, compiled: make(map[string]*jsonschema.Schema)}
	return s, s.readMethods()
}

// readMethods finds the result type of every method by the name of its params.
func (s *schemas) readMethods() error {
	b, err := os.ReadFile(filepath.Join(s.dir, "ClientRequest.json"))
	if err != nil {
		return err
	}
	var doc struct {
		OneOf []struct {
			Properties struct {
				Method struct {
					Enum []string `json:"enum"`
				} `json:"method"`
				Params struct {
					Ref string `json:"$ref"`
				} `json:"params"`
			} `json:"properties"`
		} `json:"oneOf"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return err
	}
	s.results = make(map[string]string)
	for _, o := range doc.OneOf {
		if len(o.Properties.Method.Enum) != 1 {
			continue
		}
		method := o.Properties.Method.Enum[0]
		file := odd[method]
		if name := strings.TrimSuffix(filepath.Base(o.Properties.Params.Ref), "Params"); file == "" && name != "" {
			for _, at := range []string{"v2/", "", "v1/"} {
				if _, err := os.Stat(filepath.Join(s.dir, at+name+"Response.json")); err == nil {
					file = at + name + "Response"
					break
				}
			}
		}
		s.results[method] = file
	}
	return nil
}

func (s *schemas) schema(file string) (*jsonschema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sch := s.compiled[file]; sch != nil {
		return sch, nil
	}
	sch, err := jsonschema.NewCompiler().Compile(filepath.Join(s.dir, file+".json"))
	if err != nil {
		return nil, err
	}
	s.compiled[file] = sch
	return sch, nil
}

func (s *schemas) check(file string, msg []byte) error {
	sch, err := s.schema(file)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(msg))
	if err != nil {
		return err
	}
	return sch.Validate(v)
}

// fits checks one message of the engine; request is the method it answers, if any.
func (s *schemas) fits(e protocol.Envelope, request string, msg []byte) error {
	switch e.Kind {
	case protocol.KindNotification:
		return s.check("ServerNotification", msg)
	case protocol.KindRequest:
		return s.check("ServerRequest", msg)
	case protocol.KindError:
		return s.check("JSONRPCError", msg)
	case protocol.KindResponse:
		file, known := s.results[request]
		switch {
		case !known:
			return nil // only the other version has this method
		case file == "":
			return fmt.Errorf("%s: no result type found in %s", request, s.version)
		}
		return s.check(file, e.Result)
	}
	return errors.New("not a message")
}

// recorder checks every message that is read from a stream. A message that does
// not fit fails the test it was said in.
type recorder struct {
	rpc.Stream
	t  testing.TB
	mu sync.Mutex
	// asked holds the method of each request by its id.
	asked map[string]string
}

func record(t testing.TB, s rpc.Stream) *recorder {
	return &recorder{Stream: s, t: t, asked: make(map[string]string)}
}

func (r *recorder) Write(ctx context.Context, msg []byte) error {
	if e, err := protocol.Peek(msg); err == nil && e.Kind == protocol.KindRequest {
		r.mu.Lock()
		r.asked[string(e.ID)] = e.Method
		r.mu.Unlock()
	}
	return r.Stream.Write(ctx, msg)
}

func (r *recorder) Read(ctx context.Context) ([]byte, error) {
	msg, err := r.Stream.Read(ctx)
	if err != nil {
		return nil, err
	}
	e, perr := protocol.Peek(msg)
	if perr != nil {
		r.t.Errorf("the engine said %.300s: %v", msg, perr)
		return msg, nil
	}
	r.mu.Lock()
	request := r.asked[string(e.ID)]
	r.mu.Unlock()
	list, err := installed()
	if err != nil {
		r.t.Errorf("schemas: %v", err)
	}
	for _, s := range list {
		if err := s.fits(e, request, msg); err != nil {
			r.t.Errorf("%s: %s %s does not fit the schema: %v\n%.2000s", s.version, request, e.Method, err, msg)
		}
	}
	return msg, nil
}

// needSchemas skips, or in CI fails, a test that is about the schema.
func needSchemas(t *testing.T) []*schemas {
	t.Helper()
	list, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		const lack = "NOT TESTED: no codex to write a schema: set TOWLINE_TEST_CODEX to its binaries, separated by colons"
		if os.Getenv("CI") == "true" {
			t.Fatal(lack)
		}
		t.Skip(lack)
	}
	return list
}

// The recorder must be able to say no: a check that accepts anything would be
// found nowhere else.
func TestTheSchemaCheckRefusesWhatDoesNotFit(t *testing.T) {
	for _, s := range needSchemas(t) {
		for name, msg := range map[string]string{
			"a thread without an id":   `{"method":"thread/closed","params":{}}`,
			"a status nobody knows":    `{"method":"thread/status/changed","params":{"threadId":"x","status":{"type":"asleep"}}}`,
			"an unknown notification":  `{"method":"thread/slept","params":{}}`,
			"a request without params": `{"id":1,"method":"item/fileChange/requestApproval"}`,
		} {
			e, err := protocol.Peek([]byte(msg))
			if err != nil {
				t.Fatal(err)
			}
			if s.fits(e, "", []byte(msg)) == nil {
				t.Errorf("%s: %s was accepted", s.version, name)
			}
		}
		if s.fits(protocol.Envelope{Kind: protocol.KindResponse, Result: []byte(`{"data":[{}]}`)}, "model/list", nil) == nil {
			t.Errorf("%s: a model without members was accepted", s.version)
		}
		if n := len(s.results); n < 150 {
			t.Errorf("%s: only %d methods found", s.version, n)
		}
	}
}

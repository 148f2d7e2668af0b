package native_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/engine/native"
)

func TestNewReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := native.New(native.Config{Dir: "rel", Cwd: "/nowhere/at/all", Approval: "sometimes", Sandbox: "open"})
	if err == nil {
		t.Fatal("a configuration without anything right was accepted")
	}
	for _, want := range []string{"rel", "/nowhere/at/all", "sometimes", "open", "no model", "reach a model"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q in %v", want, err)
		}
	}
}

func TestStateFollowsRun(t *testing.T) {
	root := t.TempDir()
	eng, err := native.New(native.Config{
		Dir: filepath.Join(root, "threads"), Cwd: root, Version: "1", Models: []native.Model{{ID: "m"}}, Streamer: rehearse(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := eng.State(); s.State != "starting" || s.Kind != "native" || s.Model != "m" {
		t.Errorf("state = %+v", s)
	}
	waiting, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := eng.Connect(waiting); !errors.Is(err, context.Canceled) {
		t.Errorf("connected before Run: %v", err)
	}
	changed := eng.Changed()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	<-changed
	if s := eng.State(); s.State != "ready" {
		t.Errorf("state = %+v", s)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := eng.Connect(t.Context()); err == nil {
		t.Error("connected after the end")
	}
}

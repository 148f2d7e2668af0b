package launcher

import (
	"testing"
	"time"
)

func TestWatcherNoticesSleepAndRoaming(t *testing.T) {
	base := time.Now()
	now, addrs := base, "10.0.0.4/24"
	w := &watcher{now: func() time.Time { return now }, addrs: func() string { return addrs }}
	w.last, w.known = now, addrs
	step := func(d time.Duration) string { now = now.Add(d); return w.look() }
	if why := step(lookEvery); why != "" {
		t.Errorf("nothing happened: %q", why)
	}
	if why := step(slept); why != "" {
		t.Errorf("a busy machine: %q", why)
	}
	if why := step(time.Hour); why != "this machine woke up" {
		t.Errorf("an hour later: %q", why)
	}
	addrs = "10.0.9.9/24"
	if why := step(lookEvery); why != "the network changed" {
		t.Errorf("another network: %q", why)
	}
	addrs = "" // none: nothing to try
	if why := step(lookEvery); why != "" {
		t.Errorf("no network: %q", why)
	}
	addrs = "10.0.9.9/24"
	if why := step(lookEvery); why != "the network changed" {
		t.Errorf("it is back: %q", why)
	}
}

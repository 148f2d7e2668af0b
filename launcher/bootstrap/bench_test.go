//go:build linux

package bootstrap

import (
	"testing"
	"time"

	"towline/launcher/remote"
)

// What a look at a host costs, against the least that ssh can do there: both
// log in anew each time. The ratio is reported as x-ssh-true.
func BenchmarkProbeAgainstSSHTrue(b *testing.B) {
	s := startSSHD(b)
	p := newPerson(b, s, "bash", map[string]string{".bashrc": "export A=b\n", ".bash_profile": ". ~/.bashrc\n"})
	p.fake(b, ".local/bin/codex", MinCodex)
	p.own(b, ".local/bin/codex")
	o := Options{Events: func(remote.Event) {}}
	var plain, probed time.Duration
	for b.Loop() {
		begin := time.Now()
		if out, err := p.wrap("true").CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		plain += time.Since(begin)
		begin = time.Now()
		if _, err := Probe(b.Context(), p, o); err != nil {
			b.Fatal(err)
		}
		probed += time.Since(begin)
	}
	b.ReportMetric(float64(probed)/float64(plain), "x-ssh-true")
	b.ReportMetric(float64((probed-plain).Milliseconds())/float64(b.N), "ms-more")
}

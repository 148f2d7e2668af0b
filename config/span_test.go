package config

import (
	"testing"
	"time"
)

func TestSpans(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"30d": 30 * day, "12h": 12 * time.Hour, "2w": 14 * day, "90m": 90 * time.Minute, "1s": time.Second,
		"1d12h": 36 * time.Hour, "1w1d1h1m1s": 8*day + time.Hour + time.Minute + time.Second, "0d1h": time.Hour,
		// None of these is one.
		"": 0, "0": 0, "0d": 0, "30": 0, "d": 0, "-1d": 0, "+1d": 0, "1.5h": 0, "1h1d": 0, "1d1d": 0, "1 d": 0, "1D": 0, "1y": 0, "1month": 0,
		"99999999999d": 0, "9999999999w": 0, "106751d106751d": 0, "1ms": 0, "never": 0, "١d": 0,
	} {
		got, err := ParseSpan(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "0s", 30 * day: "30d", 36 * time.Hour: "1d12h", 90 * time.Second: "1m30s", 14 * day: "14d",
	} {
		got := Span(d)
		if got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
		if back, err := ParseSpan(got); d >= time.Second && (err != nil || back != d) {
			t.Errorf("%s is written %q, which reads %s", d, got, back)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	f.Add("30d")
	f.Add("1w1d1h1m1s")
	f.Add("9223372036s")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseSpan(text)
		if err != nil {
			return
		}
		if d <= 0 {
			t.Fatalf("%q is %s", text, d)
		}
		if back, err := ParseSpan(Span(d)); err != nil || back != d {
			t.Fatalf("%q is %s, written %q", text, d, Span(d))
		}
	})
}

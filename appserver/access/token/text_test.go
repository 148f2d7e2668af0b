package token

import (
	"math/big"
	"strings"
	"testing"
)

func TestTextsAreRecognisedAndDamageIsToldOffline(t *testing.T) {
	id := newID()
	text := newText(id)
	if f, got := FormOf(text); f != WellMade || got != id || !Looks(text) {
		t.Fatalf("a new token reads as %v of %q", f, got)
	}
	if !strings.HasPrefix(text, "twl_"+id+"_") || len(text) != 64 {
		t.Errorf("its form is another: %d characters", len(text))
	}
	// One wrong character anywhere behind the prefix is found.
	for i := len(prefix); i < len(text); i++ {
		wrong := byte('1')
		if text[i] == wrong {
			wrong = '2'
		}
		if f, _ := FormOf(text[:i] + string(wrong) + text[i+1:]); f != Damaged {
			t.Errorf("with character %d changed it is %v", i, f)
		}
	}
	for name, tc := range map[string]struct {
		text string
		want Form
	}{
		"nothing":           {"", Foreign},
		"another's":         {"ghp_0123456789", Foreign},
		"prefix in capital": {"T" + text[1:], Foreign},
		"prefix only":       {prefix, Damaged},
		"cut":               {text[:len(text)-1], Damaged},
		"a line end":        {text + "\n", Damaged},
		"twice":             {text + text, Damaged},
		"id in capitals":    {prefix + strings.ToUpper(id) + text[secretAt-1:], Damaged},
		"huge":              {prefix + strings.Repeat("a", 1<<20), Damaged},
		"not ASCII":         {text[:20] + "é" + text[22:], Damaged},
	} {
		if got, _ := FormOf(tc.text); got != tc.want && !(name == "id in capitals" && strings.ToUpper(id) == id) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestNewTextsAreAllDifferent(t *testing.T) {
	seen := make(map[string]bool)
	for range 2000 {
		id := newID()
		text := newText(id)
		if seen[id] || seen[text[secretAt:]] {
			t.Fatal("twice the same")
		}
		seen[id], seen[text[secretAt:]] = true, true
		if !Looks(text) {
			t.Fatalf("a new token is not recognised")
		}
	}
	largest := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	if d := digits(new(big.Int).Set(largest), secretLen); d[0] == '0' || len(d) != secretLen {
		t.Errorf("32 bytes need more or fewer digits than %d: %s", secretLen, d)
	}
}

func TestSecretsAreToldFromNames(t *testing.T) {
	for ref, want := range map[string]bool{
		newText(newID()): true, newText(newID())[:30]: true, "ci": false, "3k9": false, "twl_" + newID(): false, "twl_ci": false,
	} {
		if got := MayBeSecret(ref); got != want {
			t.Errorf("%q: %v", ref, got)
		}
	}
}

func FuzzFormOf(f *testing.F) {
	f.Add("")
	f.Add("twl_")
	f.Add("twl_0123456789_0000000000000000000000000000000000000000000000000")
	f.Add(newText("0123456789"))
	f.Fuzz(func(t *testing.T, text string) {
		form, id := FormOf(text)
		if (form == WellMade) != Looks(text) || (form == WellMade) != (id != "") {
			t.Fatalf("%v with id %q", form, id)
		}
		if form == WellMade && (len(text) != textLen || !strings.HasPrefix(text, prefix+id+"_")) {
			t.Fatalf("%q is taken for a token", text)
		}
		if form != Foreign && !strings.HasPrefix(text, prefix) {
			t.Fatalf("%q is taken for one of ours", text)
		}
	})
}

package sshclient

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

// Names the library has no constant for.
const (
	kexSNTRUP    = "sntrup761x25519-sha512"
	kexSNTRUPOld = "sntrup761x25519-sha512@openssh.com"
	kexCurveOld  = "curve25519-sha256@libssh.org"
	certSuffix   = "-cert-v01@openssh.com"
)

// able is what the library implements, good and bad: what a person lists is
// theirs to decide, and what they do not list is never used.
func able() ssh.Algorithms {
	good, bad := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	return ssh.Algorithms{
		KeyExchanges:   slices.Concat(good.KeyExchanges, []string{kexCurveOld}, bad.KeyExchanges),
		Ciphers:        slices.Concat(good.Ciphers, bad.Ciphers),
		MACs:           slices.Concat(good.MACs, bad.MACs),
		HostKeys:       slices.Concat(good.HostKeys, bad.HostKeys),
		PublicKeyAuths: slices.Concat(good.PublicKeyAuths, bad.PublicKeyAuths),
	}
}

// algorithms puts the target's lists into the library's configuration, in the
// order they are written. A list that leaves nothing is an error: what was
// configured must not quietly become something else.
func (h *hop) algorithms(c *ssh.ClientConfig) error {
	t, can := h.target, able()
	good := ssh.SupportedAlgorithms()
	var err error
	if c.Ciphers, err = h.choose("Ciphers", t.Ciphers, can.Ciphers, good.Ciphers); err != nil {
		return err
	}
	if c.MACs, err = h.choose("MACs", t.MACs, can.MACs, good.MACs); err != nil {
		return err
	}
	kex := t.KexAlgorithms
	if i := slices.IndexFunc(kex, func(s string) bool { return s == kexSNTRUP || s == kexSNTRUPOld }); i >= 0 && !slices.Contains(kex, ssh.KeyExchangeMLKEM768X25519) && len(only(kex, can.KeyExchanges)) > 0 {
		// An OpenSSH before 9.9 knows one exchange that withstands a quantum
		// computer, the library another of the same strength. Wanting the one and
		// getting neither would be the weaker connection.
		kex = slices.Insert(slices.Clone(kex), i, ssh.KeyExchangeMLKEM768X25519)
	}
	if c.KeyExchanges, err = h.choose("KexAlgorithms", kex, can.KeyExchanges, good.KeyExchanges); err != nil {
		return err
	}
	c.HostKeyAlgorithms, err = h.choose("HostKeyAlgorithms", t.HostKeyAlgorithms, can.HostKeys, good.HostKeys)
	return err
}

// choose is want without what is not among can; usual when nothing was wanted.
func (h *hop) choose(option string, want, can, usual []string) ([]string, error) {
	if len(want) == 0 {
		return usual, nil
	}
	if got := only(want, can); len(got) > 0 {
		return got, nil
	}
	return nil, h.problem(remote.StageDial,
		fmt.Errorf("%s allows only %s, and none of it is built in here; that would be %s", option, brief(want), brief(usual)),
		"", config.ExitConfig,
		"set `transport = \"system\"` for this host, so that the system's ssh connects",
		"or add one of the latter to "+option+" of `Host "+h.label+"` in ~/.ssh/config")
}

func only(want, can []string) []string {
	var got []string
	for _, w := range want {
		if slices.Contains(can, w) && !slices.Contains(got, w) {
			got = append(got, w)
		}
	}
	return got
}

// brief is a list for an error message.
func brief(list []string) string { return printable(strings.Join(list, ","), 300) }

// preferKnown orders host key algorithms so that those the host is known by come
// first, as ssh does: a server with several keys then shows one we can compare.
// Certificates are left out unless an authority for the host is known, because
// the library cannot fall back to the key inside one.
func preferKnown(algos []string, known []knownKey) []string {
	rank := func(algo string) int {
		plain, cert := plainAlgorithm(algo)
		for _, k := range known {
			if k.authority == cert && (k.authority || slices.Contains(signatures(k.key.Type()), plain)) {
				return 0
			}
		}
		return 1
	}
	authority := slices.ContainsFunc(known, func(k knownKey) bool { return k.authority })
	out := slices.DeleteFunc(slices.Clone(algos), func(a string) bool {
		_, cert := plainAlgorithm(a)
		return cert && !authority
	})
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	return out
}

// plainAlgorithm is the algorithm under a certificate's name.
func plainAlgorithm(algo string) (plain string, cert bool) {
	return strings.CutSuffix(algo, certSuffix)
}

// signatures lists the algorithms a key of this type can sign with, best first.
func signatures(keyType string) []string {
	plain, _ := plainAlgorithm(keyType)
	if plain == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
	}
	if sk, ok := strings.CutPrefix(keyType, "sk-"); ok {
		// sk-ssh-ed25519-cert-v01@openssh.com -> sk-ssh-ed25519@openssh.com
		base := strings.TrimSuffix(strings.TrimSuffix(sk, certSuffix), "@openssh.com")
		return []string{"sk-" + base + "@openssh.com"}
	}
	return []string{plain}
}

// acceptable is signatures without what PubkeyAcceptedAlgorithms leaves out. The
// SHA-1 signatures of ssh-rsa are only for those who list them.
func acceptable(keyType string, accepted []string) []string {
	_, cert := plainAlgorithm(keyType)
	var out []string
	for _, algo := range signatures(keyType) {
		name := algo
		if cert {
			name = strings.TrimSuffix(algo, "@openssh.com") + certSuffix
		}
		if len(accepted) == 0 && algo != ssh.KeyAlgoRSA || slices.Contains(accepted, name) {
			out = append(out, algo)
		}
	}
	return out
}

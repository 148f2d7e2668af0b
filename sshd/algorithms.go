package sshd

import (
	"slices"

	gossh "golang.org/x/crypto/ssh"
)

// avoided is what x/crypto still offers, for old peers, that nothing younger
// than OpenSSH 7.4 (2016) needs: SHA-1, and 2048-bit or negotiated groups.
var avoided = []string{
	gossh.KeyExchangeDH14SHA256, gossh.KeyExchangeDHGEXSHA256, gossh.HMACSHA1,
}

// harden sets what may be negotiated: the library's own list of what is safe,
// less what is avoided. Strict key exchange (CVE-2023-48795) is the library's
// default. The post-quantum exchange stays first, though the client's order is
// what counts (RFC 4253 section 7.1).
func harden(c *gossh.ServerConfig) {
	a := gossh.SupportedAlgorithms()
	good := func(names []string) []string {
		return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(avoided, n) })
	}
	c.KeyExchanges = good(a.KeyExchanges)
	c.Ciphers = good(a.Ciphers)
	c.MACs = good(a.MACs)
	c.PublicKeyAuthAlgorithms = good(a.PublicKeyAuths)
}

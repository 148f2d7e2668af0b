package sshconfig

import "strings"

// spelled are the options ssh_config(5) describes, as it spells them, up to
// OpenSSH 10, with those of Debian's and Apple's builds.
var spelled = strings.Fields(`
	AddKeysToAgent AddressFamily BatchMode BindAddress BindInterface CanonicalDomains CanonicalizeFallbackLocal
	CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs CASignatureAlgorithms CertificateFile
	ChannelTimeout CheckHostIP Ciphers ClearAllForwardings Compression ConnectionAttempts ConnectTimeout
	ControlMaster ControlPath ControlPersist DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar
	ExitOnForwardFailure FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout
	ForwardX11Trusted GatewayPorts GlobalKnownHostsFile GSSAPIAuthentication GSSAPIClientIdentity
	GSSAPIDelegateCredentials GSSAPIKexAlgorithms GSSAPIKeyExchange GSSAPIRenewalForcesRekey GSSAPIServerIdentity
	GSSAPITrustDns HashKnownHosts Host HostbasedAcceptedAlgorithms HostbasedAuthentication HostKeyAlgorithms
	HostKeyAlias HostName IdentitiesOnly IdentityAgent IdentityFile IgnoreUnknown Include IPQoS
	KbdInteractiveAuthentication KbdInteractiveDevices KexAlgorithms KnownHostsCommand LocalCommand LocalForward
	LogLevel LogVerbose MACs Match NoHostAuthenticationForLocalhost NumberOfPasswordPrompts
	ObscureKeystrokeTiming PasswordAuthentication PermitLocalCommand PermitRemoteOpen PKCS11Provider Port
	PreferredAuthentications ProxyCommand ProxyJump ProxyUseFdpass PubkeyAcceptedAlgorithms PubkeyAuthentication
	RefuseConnection RekeyLimit RemoteCommand RemoteForward RequestTTY RequiredRSASize RevokedHostKeys
	SecurityKeyProvider SendEnv ServerAliveCountMax ServerAliveInterval SessionType SetEnv StdinNull
	StreamLocalBindMask StreamLocalBindUnlink StrictHostKeyChecking SyslogFacility Tag TCPKeepAlive Tunnel
	TunnelDevice UpdateHostKeys UseKeychain User UserKnownHostsFile VerifyHostKeyDNS VersionAddendum
	VisualHostKey WarnWeakCrypto XAuthLocation`)

// older are names ssh still takes, as aliases or to ignore them.
var older = strings.Fields(`
	afstokenpassing challengeresponseauthentication cipher compressionlevel dsaauthentication fallbacktorsh
	globalknownhostsfile2 hostbasedkeytypes identityfile2 keepalive kerberosauthentication kerberostgtpassing
	protocol protocolkeepalives pubkeyacceptedkeytypes rhostsauthentication rhostsrsaauthentication
	rsaauthentication setuptimeout skeyauthentication smartcarddevice tisauthentication useblacklistedkeys
	useprivilegedport userknownhostsfile2 useroaming usersh`)

// current gives today's name for an older one, where it means the same.
var current = map[string]string{
	"challengeresponseauthentication": "kbdinteractiveauthentication",
	"skeyauthentication":              "kbdinteractiveauthentication",
	"tisauthentication":               "kbdinteractiveauthentication",
	"dsaauthentication":               "pubkeyauthentication",
	"hostbasedkeytypes":               "hostbasedacceptedalgorithms",
	"identityfile2":                   "identityfile",
	"keepalive":                       "tcpkeepalive",
	"pubkeyacceptedkeytypes":          "pubkeyacceptedalgorithms",
	"smartcarddevice":                 "pkcs11provider",
}

// spelling is how the manual writes a lower-case keyword.
var spelling = func() map[string]string {
	m := make(map[string]string, len(spelled)+len(older))
	for _, k := range older {
		m[k] = k
	}
	for _, k := range spelled {
		m[strings.ToLower(k)] = k
	}
	return m
}()

func knownKeyword(key string) bool { return spelling[key] != "" }

// nearestKeyword is the option a mistyped one was probably meant to be, "" when
// none is within two letters.
func nearestKeyword(key string) string {
	best, least := "", 3
	for _, k := range spelled {
		if len(key) > len(k)+2 || len(k) > len(key)+2 {
			continue
		}
		if d := distance(key, strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// Nearest is the alias of a listing that name was probably meant to be, "" when
// none is close: two letters off, and fewer in short names.
func (l Listing) Nearest(name string) string {
	best, least := "", min(2, (len(name)-1)/2)+1
	for _, a := range l.Aliases {
		if d := distance(strings.ToLower(name), strings.ToLower(a.Name)); d < least {
			best, least = a.Name, d
		}
	}
	return best
}

// distance counts the letters to add, drop or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

package sshconfig

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"towline/config"
)

// filler turns options into a Target. Both sources fill through it, so that they
// cannot differ in what an option means.
type filler struct {
	*Target
	o       Options
	places  places
	options map[string][]string
	tokens  tokens
	errs    []error
}

// fill sets everything but Source and Warnings.
func (t *Target) fill(o Options, d dest, options map[string][]string) error {
	f := &filler{Target: t, o: o, places: o.places(), options: options}
	t.Options = options
	t.Alias = d.host
	t.HostName = first(options["hostname"]) // a host may well be called none
	t.User = or(d.user, first(options["user"]))
	t.Port = f.number("port", 22, 1, 65535)
	if d.port != 0 {
		t.Port = d.port
	}
	if err := (dest{user: t.User, host: t.HostName}).check(); err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s leads to %s@%s: %w", clean(d.host), clean(t.User), clean(t.HostName), err))
	}
	t.HostKeyAlias = f.one("hostkeyalias")
	f.proxy()
	f.tokens = tokensFor(o, *t)
	f.expandProxy()
	f.identity()
	f.hostKeys()
	f.link()
	f.authentication()
	f.environment()
	f.leftOut()
	f.needsSystem()
	if err := errors.Join(f.errs...); err != nil {
		return &config.Problem{
			Stage: stage, Err: err, Exit: config.ExitConfig,
			Hints: []string{"run `" + command(o, d) + "` and mend the option in your ssh configuration"},
		}
	}
	return nil
}

// one is an option's value, "" when it is not there or says none.
func (f *filler) one(key string) string {
	if v := f.options[key]; len(v) > 0 && !strings.EqualFold(v[0], "none") {
		return v[0]
	}
	return ""
}

func (f *filler) flag(key string, unspecified bool) bool { return yes(f.one(key), unspecified) }

func (f *filler) number(key string, unspecified, least, most int) int {
	v := f.one(key)
	if v == "" {
		return unspecified
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		f.errs = append(f.errs, fmt.Errorf("%s: %q is not a number from %d to %d", spelling[key], clean(v), least, most))
		return unspecified
	}
	return n
}

// seconds reads a time; ssh -G prints seconds.
func (f *filler) seconds(key string) time.Duration {
	return time.Duration(f.number(key, 0, 0, 1<<31-1)) * time.Second
}

// paths expands file names. One whose ${VARIABLE} is not set is left out with a
// warning, as ssh does.
func (f *filler) paths(key string, names []string) []string {
	var out []string
	for _, n := range names {
		p, err := f.tokens.path(n, f.o)
		var unset errUnset
		switch {
		case errors.As(err, &unset):
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s %s: %v, so it is left out", spelling[key], clean(n), err))
		case err != nil:
			f.errs = append(f.errs, fmt.Errorf("%s %s: %w", spelling[key], clean(n), err))
		default:
			out = append(out, p)
		}
	}
	return out
}

func (f *filler) path(key string, name string) string {
	if name == "" {
		return ""
	}
	if p := f.paths(key, []string{name}); len(p) == 1 {
		return p[0]
	}
	return ""
}

// expanded says whether the source expanded an option already. ssh -G does for
// some, and expanding those again would read a literal % as a token.
func (f *filler) expanded(key, v string) string {
	if f.Source == SourceSSH {
		return v
	}
	return f.path(key, v)
}

// proxyTokens are those ProxyCommand and ProxyJump may hold, and %k, which ssh
// also takes there.
const proxyTokens = "%hnprk"

func (f *filler) proxy() {
	f.ProxyJump = list(f.one("proxyjump"))
	if f.ProxyJump == nil {
		f.ProxyCommand = f.one("proxycommand")
	}
}

func (f *filler) expandProxy() {
	for i, hop := range f.ProxyJump {
		h, err := f.tokens.expand(hop, proxyTokens)
		if err == nil {
			_, err = parseHop(h)
		}
		if err != nil {
			f.errs = append(f.errs, fmt.Errorf("ProxyJump %s: %w", clean(hop), err))
		}
		f.ProxyJump[i] = h
	}
	// The names have been checked: in a shell each is one word.
	c, err := f.tokens.expand(f.ProxyCommand, proxyTokens)
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("ProxyCommand %s: %w", clean(f.ProxyCommand), err))
	}
	f.ProxyCommand = c
}

// defaultIdentities are the file names ssh tries by itself; the order and number
// differ between versions.
var defaultIdentities = []string{
	"id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_xmss", "id_dsa", "id_mldsa65", "id_mldsa44", "id_mldsa87",
}

// isDefault says whether the identities are those of an ssh nobody told any:
// only such names, each once, and more of them than anybody writes down.
func isDefault(files []string) bool {
	seen := map[string]bool{}
	for _, f := range files {
		f = strings.ReplaceAll(f, `\`, "/")
		base := path.Base(f)
		if !strings.HasPrefix(f, "~/.ssh/") || !slices.Contains(defaultIdentities, base) || seen[base] {
			return false
		}
		seen[base] = true
	}
	return len(seen) >= 4
}

func (f *filler) identity() {
	names := f.options["identityfile"]
	f.IdentityFilesDefault = isDefault(names)
	f.IdentityFiles = f.paths("identityfile", notNone(names))
	f.CertificateFiles = f.paths("certificatefile", notNone(f.options["certificatefile"]))
	f.IdentitiesOnly = f.flag("identitiesonly", false)

	switch v := first(f.options["identityagent"]); {
	case v == "" || v == "SSH_AUTH_SOCK":
	case strings.EqualFold(v, "none"):
		f.IdentityAgent = "none"
	case strings.HasPrefix(v, "$") && !strings.HasPrefix(v, "${"):
		f.IdentityAgent = or(f.o.Getenv(v[1:]), "none")
	default:
		f.IdentityAgent = or(f.expanded("identityagent", v), "none")
	}

	f.AddKeysToAgent = yesNo(or(f.one("addkeystoagent"), "no"))
	if c := f.AddKeysToAgent[0]; c >= '0' && c <= '9' {
		f.AddKeysToAgent = "yes " + f.AddKeysToAgent // a lifetime alone means yes
	}
	switch v := or(f.one("forwardagent"), "no"); {
	case strings.HasPrefix(v, "$") && !strings.HasPrefix(v, "${"):
		f.ForwardAgent = v
	case yesNo(v) == "yes" || yesNo(v) == "no":
		f.ForwardAgent = yesNo(v)
	default:
		f.ForwardAgent = or(f.expanded("forwardagent", v), "no")
	}
}

func (f *filler) hostKeys() {
	names := func(key string) []string {
		v := f.options[key]
		if f.Source == SourceSSH {
			return f.places.splitPaths(first(v))
		}
		return notNone(v)
	}
	f.UserKnownHosts = names("userknownhostsfile")
	if f.Source != SourceSSH {
		f.UserKnownHosts = f.paths("userknownhostsfile", f.UserKnownHosts)
	}
	// ssh takes these as they are; a ~ there is nobody's home.
	f.GlobalKnownHosts = names("globalknownhostsfile")

	switch v := strings.ToLower(f.one("stricthostkeychecking")); v {
	case "yes", "true":
		f.StrictHostKeyChecking = "yes"
	case "no", "false", "off":
		f.StrictHostKeyChecking = "no"
	case "accept-new":
		f.StrictHostKeyChecking = v
	default: // whatever else it may say, asking is safe
		f.StrictHostKeyChecking = "ask"
	}
	f.HashKnownHosts = f.flag("hashknownhosts", false)
	f.CheckHostIP = f.flag("checkhostip", false)
	f.UpdateHostKeys = f.one("updatehostkeys") == "ask" || f.flag("updatehostkeys", true)
	f.KnownHostsCommand = f.one("knownhostscommand")
	f.VerifyHostKeyDNS = yesNo(or(f.one("verifyhostkeydns"), "no"))
	if v := f.one("revokedhostkeys"); v != "" {
		p, err := expandHome(v, f.o.Home)
		if err != nil {
			f.errs = append(f.errs, fmt.Errorf("RevokedHostKeys: %w", err))
		}
		f.RevokedHostKeys = p
	}
	f.NoHostAuthenticationForLocalhost = f.flag("nohostauthenticationforlocalhost", false)
}

func (f *filler) link() {
	f.ConnectTimeout = f.seconds("connecttimeout")
	f.ConnectionAttempts = f.number("connectionattempts", 1, 1, 1<<31-1)
	f.ServerAliveInterval = f.seconds("serveraliveinterval")
	f.ServerAliveCountMax = f.number("serveralivecountmax", 3, 0, 1<<31-1)
	f.TCPKeepAlive = f.flag("tcpkeepalive", true)
	f.AddressFamily = or(strings.ToLower(f.one("addressfamily")), "any")
	f.BindAddress = f.one("bindaddress")
	f.BindInterface = f.one("bindinterface")
	f.Compression = f.flag("compression", false)
	if v := f.one("controlpath"); v != "" {
		f.ControlPath = f.expanded("controlpath", v)
	}
	f.ControlMaster = yesNo(or(f.one("controlmaster"), "no"))
	f.Ciphers = list(f.one("ciphers"))
	f.KexAlgorithms = list(f.one("kexalgorithms"))
	f.MACs = list(f.one("macs"))
	f.HostKeyAlgorithms = list(f.one("hostkeyalgorithms"))
}

func (f *filler) authentication() {
	f.PubkeyAcceptedAlgorithms = list(or(f.one("pubkeyacceptedalgorithms"), f.one("pubkeyacceptedkeytypes")))
	f.PasswordAuthentication = f.flag("passwordauthentication", true)
	f.KbdInteractiveAuthentication = yes(or(f.one("kbdinteractiveauthentication"), f.one("challengeresponseauthentication")), true)
	f.PubkeyAuthentication = f.flag("pubkeyauthentication", true)
	f.BatchMode = f.flag("batchmode", false)
	f.PreferredAuthentications = list(f.one("preferredauthentications"))
	f.NumberOfPasswordPrompts = f.number("numberofpasswordprompts", 3, 0, 1<<31-1)
	f.GSSAPIAuthentication = f.flag("gssapiauthentication", false)
}

func (f *filler) environment() {
	f.SetEnv = map[string]string{}
	for _, v := range f.options["setenv"] {
		name, value, ok := strings.Cut(v, "=")
		if _, again := f.SetEnv[name]; ok && name != "" && !again {
			f.SetEnv[name] = value
		}
	}
	f.SendEnv = slices.Clone(f.options["sendenv"])
}

// leftOut gathers what is set and has no place on a channel of ours, with the
// values that mean it is not.
func (f *filler) leftOut() {
	for _, x := range []struct{ key, off string }{
		{"remotecommand", ""},
		{"localcommand", ""},
		{"permitlocalcommand", "no"},
		{"requesttty", "auto no"},
		{"sessiontype", "default"},
		{"localforward", ""},
		{"remoteforward", ""},
		{"dynamicforward", ""},
		{"exitonforwardfailure", "no"},
		{"gatewayports", "no"},
		{"forwardx11", "no"},
		{"tunnel", "no"},
		{"stdinnull", "no"},
		{"forkafterauthentication", "no"},
	} {
		for _, v := range f.options[x.key] {
			if v == "" || strings.EqualFold(v, "none") && x.key != "sessiontype" || slices.Contains(strings.Fields(x.off), yesNo(v)) {
				continue
			}
			f.Ignored = append(f.Ignored, spelling[x.key]+" "+clean(v))
		}
	}
}

// needsSystem gathers what only the system's ssh can do. GSSAPIAuthentication
// alone is none of it: Debian and its children turn it on for everybody in
// /etc/ssh/ssh_config, nearly nobody has a ticket, and every key would stop
// being ours to ask for. It counts when somebody said that it is the way in:
// named among the first PreferredAuthentications, delegation or key exchange
// asked for, everything else turned off, or (see [setFor]) set by the person's
// own configuration for a block this host is in. In every other case Target says
// that it is on, and the system's ssh is what to try when all else was refused.
func (f *filler) needsSystem() {
	need := func(key string, is bool) {
		if is {
			f.NeedsSystem = appendNew(f.NeedsSystem, spelling[key])
		}
	}
	if f.GSSAPIAuthentication {
		prefer := f.PreferredAuthentications
		need("gssapiauthentication", len(prefer) > 0 && strings.HasPrefix(prefer[0], "gssapi") ||
			f.flag("gssapidelegatecredentials", false) ||
			!f.PubkeyAuthentication && !f.PasswordAuthentication && !f.KbdInteractiveAuthentication)
	}
	need("gssapikeyexchange", f.flag("gssapikeyexchange", false))
	need("hostbasedauthentication", f.flag("hostbasedauthentication", false))
	need("pkcs11provider", f.one("pkcs11provider") != "")
	provider := f.one("securitykeyprovider")
	need("securitykeyprovider", provider != "" && provider != "internal" && provider != "$SSH_SK_PROVIDER")
	need("proxyusefdpass", f.ProxyCommand != "" && f.flag("proxyusefdpass", false))
	need("knownhostscommand", f.KnownHostsCommand != "")
	need("verifyhostkeydns", f.VerifyHostKeyDNS == "yes")
	need("revokedhostkeys", f.RevokedHostKeys != "")
}

// yesNo gives a flag its one spelling, with what may follow it, and leaves other
// words alone.
func yesNo(v string) string {
	head, rest, more := strings.Cut(v, " ")
	switch strings.ToLower(head) {
	case "yes", "true", "on":
		head = "yes"
	case "no", "false", "off":
		head = "no"
	default:
		return v
	}
	if more {
		return head + " " + rest
	}
	return head
}

func first(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

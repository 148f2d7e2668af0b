package agentfwd

import (
	"fmt"
	"strconv"
	"strings"
)

// Locate is a line of POSIX sh that sets towline_agent to the stable path,
// without making or testing anything. It uses the same order as Towline's own
// paths do on the remote.
const Locate = `towline_agent=${XDG_STATE_HOME:-$HOME/.local/state}/towline/run/agent.sock; ` +
	`case $XDG_RUNTIME_DIR in /*) towline_agent=$XDG_RUNTIME_DIR/towline/agent.sock;; esac; ` +
	`[ -z "$TOWLINE_HOME" ] || towline_agent=$TOWLINE_HOME/run/agent.sock`

// keeper is what holds the links on the remote. It is POSIX sh with two things
// every sh in use has besides: test -O, and ls -t that looks at the link and not
// behind it. %[1]s is Locate, %[2]s the marker before each of its lines, %[3]s
// this connection's ID.
//
// Links are replaced by renaming a new one over them: never is there none, and
// never half of one. Two that leave at the same moment may each choose the other
// as next, so the choice is looked at again until it holds.
const keeper = `%[1]s
mark=%[2]s me=%[3]s
d=${towline_agent%%/*}
refuse() { echo "$mark refused $*"; exit 0; }
umask 077
mkdir -p "$d/agents" 2>/dev/null && chmod 700 "$d" "$d/agents" && [ -O "$d" ] || refuse "no private folder at $d"
sock=$SSH_AUTH_SOCK
case $sock in
"") refuse "the server gave this connection no agent" ;;
"$d"/*) refuse "the shell's startup files replace SSH_AUTH_SOCK" ;;
esac
[ -S "$sock" ] || refuse "the server's agent socket is not there"
link() { rm -f "$d/.$me" && ln -s "$1" "$d/.$me" && mv -f "$d/.$me" "$2"; }
point() { link "agents/$1" "$towline_agent"; }
next() {
	for i in $(ls -t "$d/agents"); do
		if [ -S "$d/agents/$i" ]; then echo "$i"; return; fi
		rm -f "$d/agents/$i"
	done
}
leave() {
	rm -f "$d/agents/$me" "$d/.$me"
	for again in 1 2 3 4 5; do
		[ -S "$towline_agent" ] && return
		to=$(next)
		if [ -n "$to" ]; then point "$to"; else rm -f "$towline_agent"; return; fi
	done
}
serve() { link "$sock" "$d/agents/$me" && point "$me"; }
trap 'leave; exit 0' HUP INT PIPE TERM
serve || { leave; refuse "no links can be made in $d"; }
next >/dev/null
echo "$mark ready $towline_agent"
while read -r word; do
	[ "$word" = claim ] && serve && echo "$mark ready $towline_agent"
done
leave
`

// script is the keeper for one connection.
func script(marker, id string) string {
	return fmt.Sprintf(keeper, Locate, marker, id)
}

// command starts a script that is sent on its input, from any login shell: there
// is nothing in it that fish, csh or nushell would read otherwise. dd reads as
// many bytes as the script has and leaves the rest of the input to it, which a
// shell that reads its script from there itself might not.
func command(script string) string {
	return `/bin/sh -c 'PATH=$PATH:/usr/bin:/bin; eval "$(dd bs=1 count=` + strconv.Itoa(len(script)) + ` 2>/dev/null)"'`
}

// parseLine reads a line of the keeper's, among what a login shell may say.
func parseLine(line, marker string) (word, rest string, ok bool) {
	_, after, ok := strings.Cut(line, marker+" ")
	if !ok {
		return "", "", false
	}
	word, rest, _ = strings.Cut(strings.TrimRight(after, "\r\n"), " ")
	return word, rest, word == "ready" || word == "refused"
}

# Shared by all scripts of this folder. Plain POSIX sh, no more: it is run by
# bash, dash, busybox, ksh, macOS' old bash, and by zsh when an rc file put that
# in the place of sh. The caller sets tl_m, the marker every answer begins with,
# and tl_k, a word that marks the ends of the environment. Both are random.
#
# All names begin with tl_, because `load` takes over whatever variables the user
# exports. Nothing a background process inherits may be the channel itself, or it
# would not close before that process ends: hence the redirections.

tl_tools=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/opt/homebrew/bin:/run/current-system/sw/bin:/system/bin
tl_path0=${PATH-}
tl_lc0=${LC_ALL-}
PATH=$tl_tools${tl_path0:+:$tl_path0}
LC_ALL=C
export PATH LC_ALL
tl_uid=$(id -u)
tl_home=${HOME:-/}
tl_host=$(uname -n)
umask 077

# say KEY VALUE...: one answer, in one write.
say() { printf '%s %s\n' "$tl_m" "$*"; }

have() { command -v "$1" >/dev/null 2>&1; }

# short N: standard input on one line, at most N bytes of it.
short() { tr '\n\r\t' '   ' | cut -c "1-$1"; }

# fail REASON TEXT: the last answer of a script that did not do it.
fail() {
	say fail "$1" "$(printf '%s\n' "$2" | short 1500)"
	unlock
	say bye
	exit 1
}

# nap: a fifth of a second where sleep can, else one.
nap() { sleep 0.2 2>/dev/null || sleep 1; }

# apart COMMAND...: becomes it, in a session of its own where that can be had, so
# that all it starts can be ended at once and no terminal can stop it.
tl_setsid=$(command -v setsid 2>/dev/null)
# shellcheck disable=SC2086 # empty or one word
apart() { exec $tl_setsid "$@"; }

# stop PID: it and what it started.
stop() { kill -9 -"$1" 2>/dev/null || kill -9 "$1" 2>/dev/null; }

# alarm SECONDS TEXT PID: after that time prints TEXT, unless empty, and stops PID,
# unless that is 0. tl_alarm is for calling it off. It is a program of its own,
# because some shells keep copies of what they redirected open in what they only
# fork; and it is waited for, because some report on jobs that were killed.
alarm() {
	# shellcheck disable=SC2086 # empty or one word
	PATH=$tl_tools $tl_setsid sh -c 'sleep "$1"
		[ -z "$2" ] || printf "\n%s\n" "$2"
		[ "$3" = 0 ] || kill -9 -"$3" || kill -9 "$3"' sh "$1" "$2" "$3" </dev/null 2>/dev/null 9>&- &
	tl_alarm=$!
}

# within SECONDS COMMAND...: its status, or that of a killed one when it took
# longer. It reads nothing; its output goes where the caller says.
within() {
	tl_wt=$1
	shift
	(apart "$@") </dev/null 9>&- &
	tl_wc=$!
	alarm "$tl_wt" '' "$tl_wc" >/dev/null
	wait "$tl_wc" 2>/dev/null
	tl_wr=$?
	{ stop "$tl_alarm" && wait "$tl_alarm"; } 2>/dev/null
	return $tl_wr
}

# mine PATH: it is ours, whatever it is, and nobody else can write to it.
mine() { [ -n "$(find -L "$1" -prune -user "$tl_uid" ! -perm -0020 ! -perm -0002 2>/dev/null)" ]; }

# exposed PATH: anybody may put something else in its place, or in that of a folder
# it lies in.
exposed() {
	tl_x=$1
	set --
	while [ -n "$tl_x" ] && [ "$tl_x" != / ]; do
		case $tl_x in
		*/*) tl_x=${tl_x%/*} ;;
		*) break ;;
		esac
		set -- "$@" "${tl_x:-/}"
	done
	[ $# -gt 0 ] && [ -n "$(find -L "$@" -prune -perm -0002 ! -perm -1000 2>/dev/null)" ]
}

# trusted PATH: nobody but us and root can have put it there, or change it.
trusted() { [ -n "$(find -L "$1" -prune \( -user 0 -o -user "$tl_uid" \) ! -perm -0002 2>/dev/null)" ]; }

# socket PATH: a socket of ours in a folder of ours. A link is followed.
socket() {
	[ -n "$(find -L "$1" -prune -type s -user "$tl_uid" 2>/dev/null)" ] && mine "$(dirname "$1")"
}

# listening PATH: somebody accepts connections there, as far as can be told
# without making one. tl_inode is the socket's, where that is told.
listening() {
	tl_inode=
	[ -r /proc/net/unix ] || return 0
	tl_lt=$(readlink "$1" 2>/dev/null)
	case $tl_lt in
	'') tl_lt=$1 ;;
	/*) ;;
	*) tl_lt=$(dirname "$1")/$tl_lt ;;
	esac
	# Num RefCount Protocol Flags Type St Inode Path
	tl_inode=$(grep -F -- " $tl_lt" /proc/net/unix | while read -r _ _ _ tl_lf _ _ tl_li tl_lp; do
		[ "$tl_lf" = 00010000 ] && [ "$tl_lp" = "$tl_lt" ] && echo "$tl_li"
	done | tail -n 1)
	[ -n "$tl_inode" ]
}

# capture SECONDS: the environment a login gives, into tl_env, in the form
# `export -p` writes and eval reads; tl_from says how it was had, tl_why what went
# wrong before. rc files may print, ask, wait and start things; none of it gets
# in the way.
capture() {
	tl_env=
	tl_from='this session'
	tl_why=
	tl_sh=${SHELL-}
	if [ ! -x "$tl_sh" ]; then
		tl_why="the login shell ${tl_sh:-(none)} is not there"
		return 1
	fi
	tl_inner="/bin/sh -c 'echo; echo $tl_k-begin; export -p; echo; echo $tl_k-end'"
	case ${tl_sh##*/} in
	csh | tcsh) attempt "$1" 'login shell, interactive' "$tl_sh" -l && return 0 ;; # -l is theirs only when alone
	nu) attempt "$1" 'login shell, interactive' "$tl_sh" -l -c && return 0 ;;
	*) attempt "$1" 'login shell, interactive' "$tl_sh" -l -i -c && return 0 ;;
	esac
	tl_r=$(replacement) && attempt "$1" "$tl_r, as rc files have it" "$tl_r" -l -i -c && return 0
	case ${tl_sh##*/} in
	csh | tcsh | nu) ;;
	*) attempt "$1" 'login shell' "$tl_sh" -l -c && return 0 ;;
	esac
	attempt "$1" 'plain shell' "$tl_sh" -c
}

# attempt SECONDS NAME SHELL FLAGS...: one way to have it.
attempt() {
	tl_sec=$1
	tl_how=$2
	shift 2
	say trying "$tl_how"
	tl_fault="${1##*/}"
	for tl_word in "$@"; do
		[ "$tl_word" = "$1" ] || tl_fault="$tl_fault $tl_word"
	done
	case $tl_fault in
	*c) tl_feed= && set -- "$@" "$tl_inner" ;;
	*) tl_feed=$tl_inner ;;
	esac
	tl_env=$(take "$tl_sec" "$@")
	case $tl_env in
	*"$tl_k-end")
		tl_env=${tl_env#*"$tl_k-begin"}
		tl_env=${tl_env%"$tl_k-end"}
		tl_from=$tl_how
		return 0
		;;
	*"$tl_k-late"*) tl_fault="$tl_fault took longer than $tl_sec s" ;;
	*) tl_fault="$tl_fault did not run what it was given" ;;
	esac
	tl_why="${tl_why:+$tl_why; }$tl_fault"
	tl_env=
	return 1
}

# replacement: the shell that the login shell's rc files put in its place.
replacement() {
	for tl_r in zsh fish nu; do
		if have "$tl_r" && [ "${tl_sh##*/}" != "$tl_r" ] &&
			grep -qs "^[^#]*exec.*[ /]$tl_r" "$tl_home/.bashrc" "$tl_home/.bash_profile" "$tl_home/.profile" "$tl_home/.zshrc"; then
			echo "$tl_r"
			return 0
		fi
	done
	return 1
}

# take SECONDS COMMAND...: what it prints between the ends, and no waiting for it
# beyond that. tl_feed is its input.
take() {
	tl_tt=$1
	shift
	{ (
		(
			TOWLINE_RESOLVING_ENVIRONMENT=1
			export TOWLINE_RESOLVING_ENVIRONMENT
			restore
			PATH=$tl_path0
			[ -n "$tl_feed" ] || apart "$@"
			apart "$@" <<-END
				$tl_feed
				exit
			END
		) &
		tl_tc=$!
		alarm "$tl_tt" "$tl_k-late" "$tl_tc"
		wait "$tl_tc"
		stop "$tl_alarm"
		echo
		echo "$tl_k-gone"
	) & } </dev/null 2>/dev/null 9>&- |
		sed -n -e '/^export tl_/d' -e '/^declare -x tl_/d' -e "/^$tl_k-begin\$/,/^$tl_k-end\$/p" -e "/^$tl_k-late\$/p" \
			-e "/^$tl_k-end\$/q" -e "/^$tl_k-late\$/q" -e "/^$tl_k-gone\$/q"
}

# restore: the locale the session had, for programs that are not ours.
restore() {
	if [ -n "$tl_lc0" ]; then LC_ALL=$tl_lc0; else unset LC_ALL; fi
}

# load: become what capture found, as far as this shell can. tl_path is the PATH
# programs are to be given; this script keeps one that finds its tools.
load() {
	restore
	PATH=$tl_path0
	if [ -n "$tl_env" ] && (eval "$tl_env") >/dev/null 2>&1; then eval "$tl_env"; fi
	unset TOWLINE_RESOLVING_ENVIRONMENT
	tl_lc0=${LC_ALL-}
	tl_path=$PATH
	PATH=$tl_tools${PATH:+:$PATH}
}

# lock PATH TRIES: true when held. flock where it works, else a folder that names
# its holder; either ends with the holder. waiting is called between tries.
tl_locked=
lock() {
	tl_lk=$1
	tl_tries=$2
	if have flock && (: >>"$tl_lk") 2>/dev/null; then
		exec 9>>"$tl_lk"
		while :; do
			flock -n 9 2>/dev/null
			case $? in
			0)
				echo "$tl_host $$" >"$tl_lk.pid"
				tl_locked=flock
				return 0
				;;
			1) ;;
			*) break ;; # the file system has none
			esac
			tl_tries=$((tl_tries - 1))
			[ "$tl_tries" -gt 0 ] || return 1
			waiting
			nap 9>&-
		done
		exec 9>&-
	fi
	tl_dead=0
	tl_never=0
	while ! mkdir "$tl_lk.d" 2>/dev/null; do
		[ -d "$tl_lk.d" ] || tl_never=$((tl_never + 1))
		[ "$tl_never" -lt 20 ] || return 1 # it cannot be made at all
		tl_holder=$(cat "$tl_lk.d/pid" 2>/dev/null)
		case $tl_holder in
		'') tl_dead=$((tl_dead + 1)) ;; # about to be written, or its maker died before
		"$tl_host "*) if kill -0 "${tl_holder#* }" 2>/dev/null; then tl_dead=0; else tl_dead=99; fi ;;
		esac
		if [ "$tl_dead" -gt 20 ]; then
			# Of those who saw it dead one may take it away: rename picks which.
			if mv "$tl_lk.d" "$tl_lk.dead.$$" 2>/dev/null; then
				if [ "$(cat "$tl_lk.dead.$$/pid" 2>/dev/null)" = "$tl_holder" ]; then
					rm -rf "$tl_lk.dead.$$"
				else
					mv "$tl_lk.dead.$$" "$tl_lk.d" 2>/dev/null # it was a new one
				fi
			fi
		fi
		tl_tries=$((tl_tries - 1))
		[ "$tl_tries" -gt 0 ] || return 1
		waiting
		nap
	done
	echo "$tl_host $$" >"$tl_lk.d/pid"
	cp "$tl_lk.d/pid" "$tl_lk.pid" 2>/dev/null
	tl_locked=folder
	trap unlock EXIT
	trap 'unlock; exit 1' HUP INT TERM PIPE
}

waiting() { :; }

unlock() {
	case $tl_locked in
	flock) exec 9>&- ;;
	folder) rm -rf "$tl_lk.d" ;;
	esac
	tl_locked=
}

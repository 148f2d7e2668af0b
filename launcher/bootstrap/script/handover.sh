# Ends a Towline daemon that has nothing to do, so that the next start is of
# another version. The caller sets tl_bin, the new program, and defines known and
# extra, as for open.sh. One that works is left alone.

say hello "$tl_uid"
[ -f "$tl_bin" ] && [ -x "$tl_bin" ] || fail missing "$tl_bin cannot be run"
tl_path=$tl_path0
known
extra
cd "$tl_home" 2>/dev/null || cd /
tl_out=$(restore && PATH=${tl_bin%/*}:$tl_path && within 25 "$tl_bin" app-server stop --if-idle --json 2>&1)
say status "$? $(printf '%s\n' "$tl_out" | short 400)"
say bye
exit 0

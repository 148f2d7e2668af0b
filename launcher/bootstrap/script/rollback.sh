# Makes the previous version current and the other way round. The caller sets
# tl_id (the folder), tl_tag (random) and tl_tries.

say hello "$tl_uid"
mine "$tl_id" && ! exposed "$tl_id" || fail none "$tl_id"
waiting() { say wait 'another change is under way'; }
lock "$tl_id/lock" "$tl_tries" || fail lock "$tl_id/lock"
tl_old=$(readlink "$tl_id/current" 2>/dev/null)
tl_new=$(readlink "$tl_id/previous" 2>/dev/null)
case $tl_new in
versions/*/towline) [ -x "$tl_id/$tl_new" ] || fail none "$tl_id/previous" ;;
*) fail none "$tl_id/previous" ;;
esac
tl_out=$(within 20 "$tl_id/$tl_new" version --json 2>&1 9>&-) || fail run "$(printf '%s\n' "$tl_out" | short 400)"
say version "$(printf '%s\n' "$tl_out" | short 1000)"
point() {
	ln -s "$2" "$tl_id/.link.$tl_tag" && mv -f "$tl_id/.link.$tl_tag" "$tl_id/$1"
}
tl_said=$( (point current "$tl_new" && point previous "$tl_old") 2>&1) || fail write "$tl_said"
say installed "$tl_id/$tl_new"
unlock
say bye
exit 0

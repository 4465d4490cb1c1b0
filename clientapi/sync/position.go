package sync

// Position returns the position of a token that /sync made for this database,
// for endpoints that take such tokens; false when it is none.
func (s *Sync) Position(text string) (pos int64, ok bool) {
	t, err := parseToken(text)
	if err != nil || t.epoch != s.o.DB.Epoch() {
		return 0, false
	}
	return t.pos, true
}

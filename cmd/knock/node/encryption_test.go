package node

import "testing"

func TestLater(t *testing.T) {
	var l later
	var done []int64
	for _, pos := range []int64{5, 7, 6} {
		l.add(pos, func() { done = append(done, pos) })
	}
	l.published(4)
	l.published(6)
	l.published(6)
	if len(done) != 2 || done[0] != 5 || done[1] != 6 {
		t.Errorf("done at 6: %v", done)
	}
	if l.published(9); len(done) != 3 {
		t.Errorf("done at 9: %v", done)
	}
}

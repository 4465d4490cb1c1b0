package sync

import "knock/clientapi/syncread"

// device remembers which member events a device has been given.
type device = syncread.Given[token]

// deviceOf returns what a device that loads members lazily remembers; nil for others.
func (s *Sync) deviceOf(q *request) *device {
	if !q.filter.state.lazy || q.filter.state.redundant {
		return nil
	}
	key := q.user + " " + q.device
	d, ok := s.devices.Get(key)
	if !ok {
		d = &device{}
		s.devices.Put(key, d)
	}
	if q.initial {
		d.Begin(token{})
	} else {
		d.Begin(q.since)
	}
	return d
}

package pushrules

// Main is the thread of events that are in no other
// (Client-Server API, "Threaded read receipts").
const Main = "main"

// Unthreaded names the read position of receipts without a thread. It cannot
// be an event id.
const Unthreaded = "*"

// maxHops bounds how many relations are followed to find an event's thread
// (Client-Server API, "Marking notifications as read").
const maxHops = 3

// Thread returns the root of the thread that an event with the given
// m.relates_to is in, or Main. relation gives the m.relates_to of other events,
// empty strings when there is none; it may be nil.
func Thread(relType, parent string, relation func(eventID string) (relType, parent string)) string {
	for range maxHops {
		if relType == "" || parent == "" {
			return Main
		}
		if relType == "m.thread" {
			return root(parent)
		}
		if relation == nil {
			return Main
		}
		relType, parent = relation(parent)
	}
	return Main
}

// root is a thread's root as it is stored. What cannot be an event id is no
// thread, so nobody can name the others' markers.
func root(id string) string {
	if id[0] != '$' || len(id) > maxEventID {
		return Main
	}
	return id
}

const maxEventID = 255

func (s *subject) thread() string {
	if _, isState := s.root["state_key"]; isState {
		return Main
	}
	return Thread(s.str("content", "m.relates_to", "rel_type"), s.str("content", "m.relates_to", "event_id"), s.Relation)
}

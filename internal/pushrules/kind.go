package pushrules

// Kind is a kind of push rule. The kinds are numbered in the order in which they
// are checked (Client-Server API, "Push Rules").
type Kind uint8

// The kinds of rules.
const (
	Override Kind = iota
	Content
	Room
	Sender
	Underride
	kinds
)

var kindNames = [kinds]string{"override", "content", "room", "sender", "underride"}

// String is the kind's name in the API.
func (k Kind) String() string { return kindNames[k] }

// ParseKind finds a kind by its name in the API.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// conditional reports whether rules of the kind have conditions.
func (k Kind) conditional() bool { return k == Override || k == Underride }

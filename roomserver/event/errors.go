package event

import "errors"

// Reasons found with errors.Is in a *ParseError and in the errors of Build,
// Canonical and SignJSON.
var (
	// ErrTooLarge: the event is over 65,536 bytes or one of its ids, its type or its
	// state key is over 255 (M_TOO_LARGE).
	ErrTooLarge = errors.New("too large")
	// ErrSyntax: not JSON (M_NOT_JSON).
	ErrSyntax = errors.New("not valid JSON")
	// ErrUTF8: a string is not valid UTF-8 or has half a surrogate pair.
	ErrUTF8 = errors.New("a string is not valid Unicode")
	// ErrDuplicateKey: an object has the same key twice.
	ErrDuplicateKey = errors.New("an object has the same key twice")
	// ErrTooDeep: objects and arrays are nested deeper than 1,000 levels.
	ErrTooDeep = errors.New("nested too deeply")
	// ErrNumber: a number that canonical JSON does not allow.
	ErrNumber = errors.New("numbers must be whole and within ±(2^53-1)")
	// ErrFormat: a field is missing, or not of the kind that the room version prescribes.
	ErrFormat = errors.New("does not have the format of its room version")
)

// ParseError says why an event was refused. Such an event must be dropped.
type ParseError struct {
	// Field is the top-level key at fault, "" when it is the event as a whole.
	Field string
	// Err is one of the reasons above.
	Err error
}

// Error tells the field and the reason, never the value.
func (e *ParseError) Error() string {
	if e.Field == "" {
		return "event: " + e.Err.Error()
	}
	return "event: " + e.Field + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *ParseError) Unwrap() error { return e.Err }

func badField(name string) error { return &ParseError{Field: name, Err: ErrFormat} }

func tooLarge(name string) error { return &ParseError{Field: name, Err: ErrTooLarge} }

package account

import (
	"strings"

	"knock/internal/account"
	"knock/internal/mail"
)

// linkMail is the e-mail that answers a request for a link. owner is the user who has the address, "" for nobody.
func linkMail(server string, q account.ValidationRequest, owner, link string) mail.Message {
	const ignore = "If you did not ask for this, you need not do anything."
	m := mail.Message{To: q.Address}
	var lines []string
	switch {
	case q.Purpose == account.ToReset && owner == "":
		m.Subject = "No account with this e-mail address"
		lines = []string{"Somebody asked for a new password on " + server + " with this e-mail address.",
			"No account there has this address. You may have registered with another one.", ignore}
	case q.Purpose == account.ToReset:
		m.Subject = "New password for " + owner
		lines = []string{"Somebody asked for a new password for your account " + owner + ".",
			"If that was you, open this page and confirm; after that your app lets you go on:", link, "The link is good for an hour.",
			"If it was not you, do not open it: whoever asked could set a new password."}
	case owner != "":
		m.Subject = "This e-mail address is in use"
		lines = []string{"Somebody wanted to use this e-mail address for an account on " + server + ".",
			"It belongs to the account " + owner + " already. If you cannot log in to that any more, let your app reset its password.", ignore}
	default:
		m.Subject = "Confirm your e-mail address"
		what := "add this e-mail address to an account on " + server
		if q.Purpose == account.ToRegister {
			what = "make an account on " + server + " with this e-mail address"
		}
		lines = []string{"Somebody, we hope you, wants to " + what + ".", "To confirm that the address is yours, open this page:", link,
			"The link is good for an hour.", ignore}
	}
	m.Text = strings.Join(lines, "\n\n") + "\n"
	return m
}

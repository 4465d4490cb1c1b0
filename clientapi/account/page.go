package account

import (
	"embed"

	"knock/internal/webpage"
)

//go:embed pages/*.html
var pageFiles embed.FS

var pages = webpage.Parse(pageFiles, "pages/*.html")

// confirmView is what the pages behind links in e-mails show.
type confirmView struct {
	Server, Address, Purpose string
	SID, Token               string
	Next, NextHost           string
}

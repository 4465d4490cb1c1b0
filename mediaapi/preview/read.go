package preview

import (
	"bufio"
	"bytes"
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Card is what a page says about itself.
type Card struct {
	// Properties are those of the Open Graph protocol, such as "og:title", without images.
	Properties map[string]string
	// Images are where pictures of it may be, the likeliest first, at most two.
	Images []*url.URL
}

// Bounds of what is taken from a page.
const (
	maxToken      = 1 << 20 // bytes of a tag or a text, scripts too
	maxAttributes = 32      // looked at in one tag
	maxProperties = 24
	maxName       = 64
	maxText       = 300  // characters of a property
	maxAbout      = 1000 // characters of a description
	maxImages     = 2
	minDeclared   = 64 // pixels, of an image in a text that tells its size
)

// Read finds out what an HTML page says about itself. It reads no further than it needs to, and takes what it has got
// where r ends or fails: a page that is cut is common. base is where the page was found, contentType what its server
// said.
func Read(r io.Reader, contentType string, base *url.URL) Card {
	p := &page{base: base, properties: map[string]string{}, other: map[string]string{}}
	z := html.NewTokenizer(decode(r, contentType))
	z.SetMaxBuf(maxToken)
	for !p.enough() {
		switch z.Next() {
		case html.ErrorToken:
			return p.card()
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := z.TagName()
			p.start(atom.Lookup(name), more, z)
		case html.EndTagToken:
			name, _ := z.TagName()
			p.end(atom.Lookup(name))
		case html.TextToken:
			p.text(z.Text())
		}
	}
	return p.card()
}

func attributes(z *html.Tokenizer) map[string]string {
	found := map[string]string{}
	for range maxAttributes {
		key, value, more := z.TagAttr()
		if name := string(key); name != "" {
			if _, twice := found[name]; !twice {
				found[name] = string(value)
			}
		}
		if !more {
			break
		}
	}
	return found
}

// sniffed is how much of a page is looked at for what it is written in.
const sniffed = 64 << 10

// decode gives a page's text in UTF-8. Pages that do not say what they are written in, and those that say it is Latin-1,
// are UTF-8 where they can be: it is what nearly all of them are.
func decode(r io.Reader, contentType string) io.Reader {
	b := bufio.NewReaderSize(r, sniffed)
	head, _ := b.Peek(sniffed) // what fails here fails again where it is read
	encoding, name, certain := charset.DetermineEncoding(head, contentType)
	if name == "utf-8" || !certain && name == "windows-1252" && validPrefix(head) {
		encoding = unicode.UTF8
	}
	return transform.NewReader(b, encoding.NewDecoder())
}

// validPrefix reports whether b can be the beginning of a UTF-8 text.
func validPrefix(b []byte) bool {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if last := b[len(b)-i:]; utf8.RuneStart(last[0]) && !utf8.FullRune(last) {
			b = b[:len(b)-i]
			break
		}
	}
	return utf8.Valid(b)
}

// page is what has been found so far.
type page struct {
	base       *url.URL
	rebased    bool
	properties map[string]string // of the protocol, as they stand there
	other      map[string]string // what can stand in for them, by its name
	images     [lastRank][]string
	body       bool      // the head has ended
	svg        int       // depth in drawings, whose titles are not the page's
	hidden     atom.Atom // the element whose text nobody sees, 0 for none
	in         atom.Atom // the title or paragraph whose text is being taken, 0 for none
	taken      bytes.Buffer
	paragraphs bytes.Buffer
}

// The places where pages name images, the likeliest to stand for the page first.
const (
	rankProperty = iota
	rankCard
	rankLink
	rankText
	lastRank
)

// enough reports whether reading on could find nothing better than what is there.
func (p *page) enough() bool {
	title := p.properties["og:title"] != "" || p.other["twitter:title"] != "" || p.other["title"] != ""
	about := p.properties["og:description"] != "" || p.other["twitter:description"] != "" || p.other["description"] != "" ||
		utf8.RuneCount(p.paragraphs.Bytes()) > maxText
	image := false
	for _, list := range p.images {
		image = image || len(list) > 0
	}
	return p.body && title && about && image
}

func (p *page) start(tag atom.Atom, more bool, z *html.Tokenizer) {
	switch tag {
	case atom.Base, atom.Meta, atom.Link, atom.Img:
		if more {
			p.refer(tag, attributes(z))
		}
	case atom.Body:
		p.body = true
	case atom.Svg:
		p.svg++
	case atom.Script, atom.Style, atom.Noscript, atom.Iframe, atom.Textarea:
		p.hidden = tag
	case atom.Title:
		if p.svg == 0 {
			p.take(tag)
		}
	case atom.P:
		p.body = true
		p.take(tag)
	case atom.Br:
		p.text([]byte{' '})
	case atom.Div, atom.Ul, atom.Ol, atom.Dl, atom.Table, atom.Section, atom.Article, atom.H1, atom.H2, atom.H3, atom.Pre, atom.Blockquote, atom.Form:
		p.put() // they end a paragraph that was not ended
	}
}

func (p *page) refer(tag atom.Atom, attr map[string]string) {
	switch tag {
	case atom.Base:
		p.rebase(attr["href"])
	case atom.Meta:
		p.meta(attr)
	case atom.Img:
		p.img(attr)
	case atom.Link:
		if hasWord(attr["rel"], "image_src") {
			p.image(rankLink, attr["href"])
		}
	}
}

func (p *page) end(tag atom.Atom) {
	switch tag {
	case atom.Head:
		p.body = true
	case atom.Svg:
		p.svg = max(p.svg-1, 0)
	}
	if tag == p.hidden {
		p.hidden = 0
	}
	if tag == p.in {
		p.put()
	}
}

// take begins to take text.
func (p *page) take(tag atom.Atom) {
	p.put()
	p.in = tag
}

func (p *page) text(b []byte) {
	if room := 4*maxAbout - p.taken.Len(); p.in != 0 && p.hidden == 0 && room > 0 {
		p.taken.Write(b[:min(len(b), room)])
	}
}

// put ends taking text.
func (p *page) put() {
	text := tidy(p.taken.String(), maxAbout)
	p.taken.Reset()
	switch {
	case text == "":
	case p.in == atom.Title && p.other["title"] == "":
		p.other["title"] = text
	case p.in == atom.P && p.paragraphs.Len() < 4*maxText:
		p.paragraphs.WriteString(text + " ")
	}
	p.in = 0
}

func (p *page) rebase(href string) {
	if u, err := p.base.Parse(href); err == nil && href != "" && !p.rebased {
		p.base, p.rebased = u, true
	}
}

// meta takes a property. The protocol says property, and many pages say name.
func (p *page) meta(attr map[string]string) {
	name, content := strings.ToLower(strings.TrimSpace(attr["property"])), attr["content"]
	if name == "" {
		name = strings.ToLower(strings.TrimSpace(attr["name"]))
	}
	if attr["itemprop"] == "image" {
		p.image(rankLink, content)
	}
	switch {
	case name == "og:image", name == "og:image:url", name == "og:image:secure_url":
		p.image(rankProperty, content)
	case name == "twitter:image", name == "twitter:image:src":
		p.image(rankCard, content)
	case strings.HasPrefix(name, "og:image"):
		// It is about an image as it is there; what is said of ours is measured.
	case strings.HasPrefix(name, "og:"):
		p.property(name, content)
	case name == "description", name == "twitter:title", name == "twitter:description":
		if p.other[name] == "" {
			p.other[name] = tidy(content, maxAbout)
		}
	}
}

func (p *page) property(name, content string) {
	limit := maxText
	if name == "og:description" {
		limit = maxAbout
	}
	if isLink(name) {
		content = p.link(content)
	} else {
		content = tidy(content, limit)
	}
	if content != "" && p.properties[name] == "" && len(p.properties) < maxProperties && validName(name) {
		p.properties[name] = content
	}
}

// isLink reports whether a property is an address.
func isLink(name string) bool {
	switch name {
	case "og:url", "og:video", "og:audio":
		return true
	}
	return strings.HasSuffix(name, ":url") || strings.HasSuffix(name, ":secure_url")
}

// link is an address in a page made absolute, "" when it leads to no page.
func (p *page) link(ref string) string {
	ref = strings.TrimSpace(ref)
	if len(ref) > maxURL || ref == "" {
		return ""
	}
	u, err := p.base.Parse(ref)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	if s := u.String(); len(s) <= maxURL {
		return s
	}
	return ""
}

func validName(name string) bool {
	if len(name) > maxName {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

// img takes an image in a text, unless it says that it is too small to stand for the page: an icon, or what counts
// visitors.
func (p *page) img(attr map[string]string) {
	for _, side := range []string{"width", "height"} {
		if n, err := strconv.Atoi(strings.TrimSuffix(attr[side], "px")); err == nil && n < minDeclared {
			return
		}
	}
	p.image(rankText, attr["src"])
}

func (p *page) image(rank int, ref string) {
	if s := p.link(ref); s != "" && len(p.images[rank]) < maxImages {
		p.images[rank] = append(p.images[rank], s)
	}
}

// card puts together what was found.
func (p *page) card() Card {
	p.put()
	c := Card{Properties: p.properties}
	fill := func(name string, limit int, from ...string) {
		for _, text := range from {
			if text != "" && c.Properties[name] == "" {
				c.Properties[name] = tidy(text, limit)
			}
		}
	}
	fill("og:title", maxText, p.other["twitter:title"], p.other["title"])
	fill("og:description", maxAbout, p.other["twitter:description"], p.other["description"], tidy(p.paragraphs.String(), maxText))
	seen := map[string]bool{}
	for _, list := range p.images {
		for _, ref := range list {
			u, err := Parse(ref)
			if err == nil && len(c.Images) < maxImages && !seen[u.String()] {
				seen[u.String()] = true
				c.Images = append(c.Images, u)
			}
		}
	}
	return c
}

func hasWord(list, word string) bool {
	for _, w := range strings.Fields(list) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// Package pages owns the tests of previews of web pages, over whole nodes and a real web server.
package pages

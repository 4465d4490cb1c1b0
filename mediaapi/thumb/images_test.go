package thumb

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"
)

// quarters is a picture whose quarters have different colours: red, green / blue, white.
func quarters(w, h int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.SetNRGBA(x, y, quarter(x, y, w, h))
		}
	}
	return m
}

func quarter(x, y, w, h int) color.NRGBA {
	switch {
	case x < w/2 && y < h/2:
		return color.NRGBA{255, 0, 0, 255}
	case y < h/2:
		return color.NRGBA{0, 255, 0, 255}
	case x < w/2:
		return color.NRGBA{0, 0, 255, 255}
	}
	return color.NRGBA{255, 255, 255, 255}
}

func encoded(t testing.TB, kind string, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch kind {
	case "image/png":
		err = png.Encode(&b, m)
	case "image/jpeg":
		err = jpeg.Encode(&b, m, &jpeg.Options{Quality: 95})
	case "image/gif":
		err = gif.Encode(&b, m, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withOrientation puts an EXIF block in front of a JPEG.
func withOrientation(photo []byte, orientation int, order binary.AppendByteOrder) []byte {
	tiff := []byte("II*\x00")
	if order == binary.AppendByteOrder(binary.BigEndian) {
		tiff = []byte("MM\x00*")
	}
	tiff = order.AppendUint32(tiff, 8)
	tiff = order.AppendUint16(tiff, 2) // entries: a width, then the orientation
	for _, entry := range [][2]uint16{{0x0100, 7}, {0x0112, uint16(orientation)}} {
		tiff = order.AppendUint16(tiff, entry[0])
		tiff = order.AppendUint16(tiff, 3) // SHORT
		tiff = order.AppendUint32(tiff, 1)
		tiff = order.AppendUint16(tiff, entry[1])
		tiff = order.AppendUint16(tiff, 0)
	}
	segment := append([]byte("Exif\x00\x00"), tiff...)
	out := append([]byte{}, photo[:2]...)
	out = append(out, 0xff, 0xe1)
	out = binary.BigEndian.AppendUint16(out, uint16(len(segment)+2))
	return append(append(out, segment...), photo[2:]...)
}

// webpOf is a lossless WebP of one colour: with codes of one symbol the pixels take no bits at all.
func webpOf(w, h int, c color.NRGBA) []byte {
	var bits uint64
	var n uint
	var data []byte
	put := func(v uint64, width uint) {
		for bits |= v << n; width > 0; width-- {
			if n++; n == 8 {
				data, bits, n = append(data, byte(bits)), bits>>8, 0
			}
		}
	}
	put(0x2f, 8)
	put(uint64(w-1), 14)
	put(uint64(h-1), 14)
	put(1, 1) // alpha is used
	put(0, 3) // version
	put(0, 3) // no transform, no colour cache, no meta codes
	for _, symbol := range []byte{c.G, c.R, c.B, c.A, 0} {
		put(0b101, 3) // simple code, one symbol, of 8 bits
		put(uint64(symbol), 8)
	}
	data = append(data, byte(bits), 0)
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	out := []byte("RIFF")
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)+12))
	out = append(out, "WEBPVP8L"...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

// movingWebP is an animation whose first frame is still, shown on a canvas of w × h.
func movingWebP(still []byte, w, h int) []byte {
	dims := func(out []byte) []byte {
		return append(out, byte(w-1), byte((w-1)>>8), byte((w-1)>>16), byte(h-1), byte((h-1)>>8), byte((h-1)>>16))
	}
	chunk := func(out []byte, name string, data []byte) []byte {
		out = binary.LittleEndian.AppendUint32(append(out, name...), uint32(len(data)))
		return append(out, data...)
	}
	frame := dims(make([]byte, 6))
	frame = append(frame, 100, 0, 0, 0)
	frame = append(frame, still[12:]...)
	body := chunk([]byte("WEBP"), "VP8X", dims([]byte{webpAnimated, 0, 0, 0}))
	body = chunk(body, "ICCP", make([]byte, 10))
	body = chunk(body, "ANIM", make([]byte, 6))
	body = chunk(chunk(body, "ANMF", frame), "ANMF", frame)
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(body))), body...)
}

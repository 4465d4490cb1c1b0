package thumb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"strings"
	"testing"
)

func inspect(t testing.TB, data []byte) Info {
	t.Helper()
	info, err := Inspect(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func mustMake(t testing.TB, data []byte, sizes ...Size) []Image {
	t.Helper()
	made, err := Make(t.Context(), bytes.NewReader(data), inspect(t, data), sizes)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

var all = []Size{{32, 32, true}, {96, 96, true}, {320, 240, false}, {640, 480, false}, {800, 600, false}}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		w, h int
		want string
	}{
		{4000, 3000, "800x600 640x480 320x240 96x96 32x32"},
		{3000, 4000, "450x600 360x480 180x240 96x96 32x32"},
		{1000, 100, "800x80 640x64 320x32 96x96 32x32"},
		{5000, 3, "800x1 640x1 320x1 3x3 3x3"},
		{3, 5000, "1x600 1x480 1x240 3x3 3x3"},
		{700, 500, "700x500 640x457 320x229 96x96 32x32"},
		{50, 20, "50x20 50x20 50x20 20x20 20x20"},
		{1, 1, "1x1 1x1 1x1 1x1 1x1"},
	} {
		data := encoded(t, "image/png", image.NewGray(image.Rect(0, 0, c.w, c.h)))
		var got []string
		for _, img := range mustMake(t, data, all...) {
			got = append(got, fmt.Sprintf("%dx%d", img.Width, img.Height))
			m, kind, err := image.Decode(bytes.NewReader(img.Data))
			sharp := img.Width*img.Height <= 320*240
			if err != nil || (kind == "png") != sharp || m.Bounds().Dx() != img.Width || m.Bounds().Dy() != img.Height {
				t.Errorf("%dx%d: a %s, %v", c.w, c.h, kind, err)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%dx%d: %s, want %s", c.w, c.h, s, c.want)
		}
	}
}

// corners are the colours of the quarters of a picture, left to right, top to bottom.
func corners(t testing.TB, data []byte) string {
	t.Helper()
	m, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	b := m.Bounds()
	var s strings.Builder
	for _, at := range [][2]int{{1, 1}, {3, 1}, {1, 3}, {3, 3}} {
		r, g, bl, _ := m.At(b.Dx()*at[0]/4, b.Dy()*at[1]/4).RGBA()
		switch {
		case r > 0xc000 && g > 0xc000 && bl > 0xc000:
			s.WriteByte('w')
		case r > 0xc000 && g < 0x4000 && bl < 0x4000:
			s.WriteByte('r')
		case g > 0xc000 && r < 0x4000 && bl < 0x4000:
			s.WriteByte('g')
		case bl > 0xc000 && r < 0x4000 && g < 0x4000:
			s.WriteByte('b')
		default:
			s.WriteByte('?')
		}
	}
	return s.String()
}

func TestOrientation(t *testing.T) {
	photo := encoded(t, "image/jpeg", quarters(400, 200))
	for orientation, want := range []string{1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb"} {
		if want == "" {
			continue
		}
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			data := withOrientation(photo, orientation, order)
			info := inspect(t, data)
			w, h := 320, 160
			if orientation >= 5 {
				w, h = 120, 240
			}
			if info.Orientation != orientation || (info.Width > info.Height) != (w > h) {
				t.Errorf("%d: %+v", orientation, info)
			}
			made := mustMake(t, data, Size{320, 240, false}, Size{96, 96, true})
			if made[0].Width != w || made[0].Height != h {
				t.Errorf("%d: %dx%d, want %dx%d", orientation, made[0].Width, made[0].Height, w, h)
			}
			for _, img := range made {
				if got := corners(t, img.Data); got != want {
					t.Errorf("orientation %d, %v: %s, want %s", orientation, img.Size, got, want)
				}
			}
		}
	}
}

func TestFormats(t *testing.T) {
	gray := image.NewGray(image.Rect(0, 0, 400, 300))
	for i := range gray.Pix {
		gray.Pix[i] = 100
	}
	for name, c := range map[string]struct {
		data []byte
		mime string
	}{
		"png":       {encoded(t, "image/png", quarters(400, 300)), "image/png"},
		"jpeg":      {encoded(t, "image/jpeg", quarters(400, 300)), "image/jpeg"},
		"gif":       {encoded(t, "image/gif", quarters(400, 300)), "image/gif"},
		"webp":      {webpOf(400, 300, color.NRGBA{255, 0, 0, 255}), "image/webp"},
		"gray png":  {encoded(t, "image/png", gray), "image/png"},
		"gray jpeg": {encoded(t, "image/jpeg", gray), "image/jpeg"},
	} {
		info := inspect(t, c.data)
		if info.Type != c.mime || info.Width != 400 || info.Height != 300 {
			t.Errorf("%s: %+v", name, info)
		}
		img := mustMake(t, c.data, Size{320, 240, false})[0]
		want := map[string]string{"webp": "rrrr", "gray png": "????", "gray jpeg": "????"}[name]
		if want == "" {
			want = "rgbw"
		}
		kind := "image/jpeg"
		if c.mime == "image/png" {
			kind = c.mime // small enough to stay one
		}
		if got := corners(t, img.Data); got != want || img.Type != kind {
			t.Errorf("%s: %s as %s", name, got, img.Type)
		}
		if img := mustMake(t, c.data, Size{640, 480, false})[0]; img.Type != "image/jpeg" {
			t.Errorf("a large thumbnail of %s is %s", name, img.Type)
		}
	}
}

func TestAlphaStaysPNG(t *testing.T) {
	m := quarters(400, 300)
	m.SetNRGBA(0, 0, color.NRGBA{})
	img := mustMake(t, encoded(t, "image/png", m), Size{320, 240, false})[0]
	if img.Type != "image/png" {
		t.Errorf("type %s", img.Type)
	}
	if _, err := png.Decode(bytes.NewReader(img.Data)); err != nil {
		t.Error(err)
	}
	img = mustMake(t, webpOf(400, 300, color.NRGBA{255, 0, 0, 128}), Size{96, 96, true})[0]
	if img.Type != "image/png" || img.Width != 96 {
		t.Errorf("webp with alpha: %s of %d", img.Type, img.Width)
	}
}

// average is compared with the definition: every target pixel is the mean of the area that it covers.
func TestAverage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		sw, sh := 1+r.IntN(40), 1+r.IntN(40)
		w, h := 1+r.IntN(sw), 1+r.IntN(sh)
		n := []int{1, 4}[r.IntN(2)]
		src := make([]byte, sw*sh*n)
		for i := range src {
			src[i] = byte(r.IntN(256))
		}
		got := average(func(y int) []byte { return src[y*sw*n : (y+1)*sw*n] }, n, sw, sh, w, h)
		for y := range h {
			for x := range w {
				for c := range n {
					want := mean(src, n, sw, sh, w, h, x, y, c)
					if d := int(got[(y*w+x)*n+c]) - want; d < -1 || d > 1 {
						t.Fatalf("%dx%d → %dx%d, pixel %d,%d channel %d: %d, want %d", sw, sh, w, h, x, y, c, got[(y*w+x)*n+c], want)
					}
				}
			}
		}
	}
}

func mean(src []byte, n, sw, sh, w, h, x, y, c int) int {
	overlap := func(a0, a1, b0, b1 float64) float64 { return max(0, min(a1, b1)-max(a0, b0)) }
	fx, fy := float64(sw)/float64(w), float64(sh)/float64(h)
	sum := 0.0
	for sy := range sh {
		for sx := range sw {
			sum += float64(src[(sy*sw+sx)*n+c]) *
				overlap(float64(sx), float64(sx+1), float64(x)*fx, float64(x+1)*fx) *
				overlap(float64(sy), float64(sy+1), float64(y)*fy, float64(y+1)*fy)
		}
	}
	return int(sum/(fx*fy) + 0.5)
}

func TestSubsampling(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422,
		image.YCbCrSubsampleRatio420, image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410} {
		m := image.NewYCbCr(image.Rect(0, 0, 401, 301), ratio)
		for y := range 301 {
			for x := range 401 {
				q := quarter(x, y, 401, 301)
				yy, cb, cr := color.RGBToYCbCr(q.R, q.G, q.B)
				m.Y[m.YOffset(x, y)], m.Cb[m.COffset(x, y)], m.Cr[m.COffset(x, y)] = yy, cb, cr
			}
		}
		for _, size := range []Size{{320, 240, false}, {401, 301, false}, {96, 96, true}, {3, 3, true}} {
			part, w, h := size.of(m.Bounds())
			img, err := encode(shrink(m, part, w, h), false)
			if err != nil {
				t.Fatal(err)
			}
			if got := corners(t, img.Data); got != "rgbw" && w > 3 {
				t.Errorf("%v to %v: %s", ratio, size, got)
			}
		}
	}
}

// Content that only looks like an image, or promises more than it holds, is an error and never a panic.
func TestHostile(t *testing.T) {
	photo := encoded(t, "image/jpeg", quarters(400, 300))
	picture := encoded(t, "image/png", quarters(400, 300))
	moving := encoded(t, "image/gif", quarters(400, 300))
	web := webpOf(400, 300, color.NRGBA{1, 2, 3, 255})
	for i, data := range [][]byte{photo, picture, moving, web} {
		for cut := 0; cut < len(data); cut += 1 + len(data)/50 {
			short := data[:cut]
			info, err := Inspect(bytes.NewReader(short))
			if err == nil {
				_, err = Make(t.Context(), bytes.NewReader(short), info, all)
			}
			if err != nil && !errors.Is(err, ErrFormat) {
				t.Errorf("%d cut at %d: %v", i, cut, err)
			}
		}
	}
	for name, data := range map[string][]byte{
		"empty":     nil,
		"text":      []byte("hello"),
		"svg":       []byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`),
		"bmp":       []byte("BM\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"jpeg head": []byte("\xff\xd8\xff\xe1\xff\xff"),
		"riff":      []byte("RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff"),
		"no gif":    []byte("GIF89a\x00\x00\x00\x00\x00\x00\x00"),
	} {
		if _, err := Inspect(bytes.NewReader(data)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What an image costs is known before it is decoded.
func TestBombsAreSeen(t *testing.T) {
	huge := inspect(t, webpOf(16384, 16384, color.NRGBA{1, 2, 3, 255}))
	if huge.Pixels() != 1<<28 || huge.Memory < 1<<30 {
		t.Errorf("webp: %+v", huge)
	}
	bomb := encoded(t, "image/png", quarters(4, 4))
	binary.BigEndian.PutUint32(bomb[16:], 1<<20)
	binary.BigEndian.PutUint32(bomb[20:], 1<<9)
	if _, err := Inspect(bytes.NewReader(bomb)); !errors.Is(err, ErrFormat) {
		t.Errorf("a header with a wrong checksum: %v", err)
	}
	photo := encoded(t, "image/jpeg", quarters(400, 300))
	scan := []byte{0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0}
	many := append(photo[:len(photo)-2:len(photo)-2], bytes.Repeat(scan, maxScans)...)
	if _, err := Inspect(bytes.NewReader(many)); !errors.Is(err, ErrFormat) {
		t.Errorf("a JPEG with %d scans: %v", maxScans+1, err)
	}
}

func TestCancelled(t *testing.T) {
	data := encoded(t, "image/png", quarters(400, 300))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, bytes.NewReader(data), inspect(t, data), all); !errors.Is(err, context.Canceled) || errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

func TestAnimated(t *testing.T) {
	apng := encoded(t, "image/png", quarters(4, 4))
	chunk := []byte("\x00\x00\x00\x08acTL\x00\x00\x00\x02\x00\x00\x00\x00\xf3\x8d\x93\x70")
	apng = append(apng[:33:33], append(chunk, apng[33:]...)...)
	for name, c := range map[string]struct {
		data []byte
		want bool
	}{
		"png":         {encoded(t, "image/png", quarters(4, 4)), false},
		"apng":        {apng, true},
		"gif":         {encoded(t, "image/gif", quarters(4, 4)), true},
		"jpeg":        {encoded(t, "image/jpeg", quarters(4, 4)), false},
		"webp":        {webpOf(4, 4, color.NRGBA{}), false},
		"moving webp": {movingWebP(webpOf(4, 4, color.NRGBA{}), 4, 4), true},
	} {
		if info := inspect(t, c.data); info.Animated != c.want {
			t.Errorf("%s: %+v", name, info)
		}
	}
}

func TestMovingWebP(t *testing.T) {
	still := webpOf(400, 300, color.NRGBA{255, 0, 0, 255})
	img := mustMake(t, movingWebP(still, 400, 300), Size{320, 240, false})[0]
	if got := corners(t, img.Data); got != "rrrr" || img.Width != 320 {
		t.Errorf("%s of %d pixels", got, img.Width)
	}
	// A frame that is larger than it says is no picture.
	lie := movingWebP(webpOf(16384, 16384, color.NRGBA{}), 4, 4)
	if _, err := Make(t.Context(), bytes.NewReader(lie), inspect(t, lie), all); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

func FuzzMake(f *testing.F) {
	f.Add(withOrientation(encoded(f, "image/jpeg", quarters(20, 10)), 6, binary.BigEndian))
	f.Add(encoded(f, "image/png", quarters(20, 10)))
	f.Add(encoded(f, "image/gif", quarters(20, 10)))
	f.Add(webpOf(20, 10, color.NRGBA{1, 2, 3, 4}))
	f.Add(movingWebP(webpOf(20, 10, color.NRGBA{1, 2, 3, 4}), 20, 10))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := Inspect(bytes.NewReader(data))
		if err != nil || info.Memory > 1<<20 {
			return
		}
		made, err := Make(t.Context(), bytes.NewReader(data), info, all)
		if err != nil {
			return
		}
		for _, img := range made {
			if img.Width > img.Size.Width || img.Height > img.Size.Height {
				t.Errorf("%dx%d is larger than %v", img.Width, img.Height, img.Size)
			}
		}
	})
}

// photo12 is a picture of 12 megapixels with noise, as a camera makes them.
func photo12(t testing.TB) []byte {
	t.Helper()
	m := image.NewYCbCr(image.Rect(0, 0, 4000, 3000), image.YCbCrSubsampleRatio420)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range m.Y {
		m.Y[i] = byte(i/4000*255/3000) + byte(r.Uint32()&15)
	}
	for i := range m.Cb {
		m.Cb[i], m.Cr[i] = byte(i/997), byte(128+i/4001%64)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 85}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func BenchmarkInspect12MP(b *testing.B) {
	data := photo12(b)
	for b.Loop() {
		inspect(b, data)
	}
}

func BenchmarkMake12MP(b *testing.B) {
	data := photo12(b)
	b.ReportAllocs()
	for b.Loop() {
		mustMake(b, data, all...)
	}
}

func BenchmarkDecode12MP(b *testing.B) {
	data := photo12(b)
	for b.Loop() {
		if _, err := jpeg.Decode(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}

package thumb

import (
	"image"
	"image/color"
	"image/draw"
)

// shrink averages part of src down to w × h pixels; w and h are at most those of the part. Every source pixel
// counts by the area that it covers.
func shrink(src image.Image, part image.Rectangle, w, h int) *image.RGBA {
	switch src := src.(type) {
	case *image.YCbCr:
		return shrinkYCbCr(src, part, w, h)
	case *image.Gray:
		return fromGray(average(plane(src.Pix, src.Stride, src.Bounds(), part), 1, part.Dx(), part.Dy(), w, h), w, h)
	case *image.RGBA:
		off := src.PixOffset(part.Min.X, part.Min.Y)
		rows := func(y int) []byte { return src.Pix[off+y*src.Stride : off+y*src.Stride+4*part.Dx()] }
		return toRGBA(average(rows, 4, part.Dx(), part.Dy(), w, h), w, h)
	}
	return toRGBA(average(converted(src, part), 4, part.Dx(), part.Dy(), w, h), w, h)
}

// plane gives the rows of part in a plane with one byte a pixel.
func plane(pix []byte, stride int, bounds, part image.Rectangle) func(y int) []byte {
	off := (part.Min.Y-bounds.Min.Y)*stride + part.Min.X - bounds.Min.X
	return func(y int) []byte { return pix[off+y*stride : off+y*stride+part.Dx()] }
}

// converted gives the rows of any image as premultiplied RGBA, a band at a time.
func converted(src image.Image, part image.Rectangle) func(y int) []byte {
	const bandRows = 16
	band := image.NewRGBA(image.Rect(0, 0, part.Dx(), bandRows))
	first := -bandRows
	return func(y int) []byte {
		if y >= first+bandRows {
			first = y
			draw.Draw(band, band.Rect, src, part.Min.Add(image.Pt(0, y)), draw.Src)
		}
		return band.Pix[(y-first)*band.Stride:][:4*part.Dx()]
	}
}

// shrinkYCbCr averages the planes of a JPEG apart, each in its own resolution, and mixes them when they are small.
func shrinkYCbCr(src *image.YCbCr, part image.Rectangle, w, h int) *image.RGBA {
	luma := average(plane(src.Y, src.YStride, src.Rect, part), 1, part.Dx(), part.Dy(), w, h)
	// The chroma samples that cover the part.
	first := src.COffset(part.Min.X, part.Min.Y)
	last := src.COffset(part.Max.X-1, part.Max.Y-1)
	cw, ch := last%src.CStride-first%src.CStride+1, last/src.CStride-first/src.CStride+1
	chroma := func(pix []byte) []byte {
		rows := func(y int) []byte { return pix[first+y*src.CStride:][:cw] }
		return stretch(average(rows, 1, cw, ch, min(w, cw), min(h, ch)), min(w, cw), min(h, ch), w, h)
	}
	cb, cr := chroma(src.Cb), chroma(src.Cr)
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for i, y := range luma {
		p := out.Pix[4*i : 4*i+4 : 4*i+4]
		p[0], p[1], p[2] = color.YCbCrToRGB(y, cb[i], cr[i])
		p[3] = 0xff
	}
	return out
}

// stretch repeats chroma samples where the thumbnail has more pixels than the picture has chroma.
func stretch(pix []byte, sw, sh, w, h int) []byte {
	if sw == w && sh == h {
		return pix
	}
	out := make([]byte, w*h)
	for y := range h {
		row := pix[y*sh/h*sw:][:sw]
		for x := range w {
			out[y*w+x] = row[x*sw/w]
		}
	}
	return out
}

func fromGray(pix []byte, w, h int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for i, v := range pix {
		p := out.Pix[4*i : 4*i+4 : 4*i+4]
		p[0], p[1], p[2], p[3] = v, v, v, 0xff
	}
	return out
}

func toRGBA(pix []byte, w, h int) *image.RGBA {
	return &image.RGBA{Pix: pix, Stride: 4 * w, Rect: image.Rect(0, 0, w, h)}
}

// average shrinks sw × sh pixels of n channels to w × h. Positions are whole numbers: in a unit of 1/w of a source
// pixel, a source pixel is w wide and a target pixel sw; likewise downwards.
func average(row func(y int) []byte, n, sw, sh, w, h int) []byte {
	out := make([]byte, w*h*n)
	line := make([]uint64, w*n) // one source row, shrunk sideways
	acc := make([]uint64, w*n)  // the target row so far
	area := uint64(sw) * uint64(sh)
	y, room := 0, sh // the target row, and how much of it is still to come
	for sy := range sh {
		sideways(line, row(sy), n, sw, w)
		left := h // of this source row
		for left > 0 {
			take := min(left, room)
			for i, v := range line {
				acc[i] += v * uint64(take)
			}
			left, room = left-take, room-take
			if room == 0 {
				for i, v := range acc {
					out[y*w*n+i] = byte((v + area/2) / area)
				}
				clear(acc)
				y, room = y+1, sh
			}
		}
	}
	return out
}

// sideways sums the pixels of a row, each by how much of it lies in the target pixel.
func sideways(line []uint64, row []byte, n, sw, w int) {
	if n == 1 {
		sidewaysPlane(line, row, sw, w)
		return
	}
	sx, left := 0, w // the source pixel, and how much of it is still to be used
	for x := range w {
		var r, g, b, a uint64
		for room := sw; room > 0; {
			take := min(left, room)
			p, k := row[4*sx:4*sx+4:4*sx+4], uint64(take)
			r, g, b, a = r+k*uint64(p[0]), g+k*uint64(p[1]), b+k*uint64(p[2]), a+k*uint64(p[3])
			room -= take
			if left -= take; left == 0 {
				sx, left = sx+1, w
			}
		}
		line[4*x], line[4*x+1], line[4*x+2], line[4*x+3] = r, g, b, a
	}
}

// sidewaysPlane does the same for one channel, whole pixels without a multiplication each.
func sidewaysPlane(line []uint64, row []byte, sw, w int) {
	sx, left := 0, w
	for x := range w {
		take := min(left, sw)
		sum := uint64(take) * uint64(row[sx])
		room := sw - take
		if left -= take; left == 0 {
			sx, left = sx+1, w
		}
		if whole := room / w; whole > 0 {
			var s uint64
			for _, v := range row[sx : sx+whole] {
				s += uint64(v)
			}
			sum += s * uint64(w)
			sx, room = sx+whole, room-whole*w
		}
		if room > 0 {
			sum += uint64(room) * uint64(row[sx])
			left = w - room
		}
		line[x] = sum
	}
}

// turn makes an image upright. The numbers are EXIF's.
func turn(m *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 || orientation > 8 {
		return m
	}
	w, h := m.Rect.Dx(), m.Rect.Dy()
	ow, oh := w, h
	if orientation >= 5 {
		ow, oh = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, ow, oh))
	for y := range oh {
		for x := range ow {
			sx, sy := origin(orientation, x, y, w, h)
			copy(out.Pix[y*out.Stride+4*x:][:4], m.Pix[sy*m.Stride+4*sx:][:4])
		}
	}
	return out
}

// origin is where the pixel at x, y of the upright image lies in the stored one of w × h pixels.
func origin(orientation, x, y, w, h int) (sx, sy int) {
	switch orientation {
	case 2:
		return w - 1 - x, y
	case 3:
		return w - 1 - x, h - 1 - y
	case 4:
		return x, h - 1 - y
	case 5:
		return y, x
	case 6:
		return y, h - 1 - x
	case 7:
		return w - 1 - y, h - 1 - x
	default: // 8
		return w - 1 - y, x
	}
}

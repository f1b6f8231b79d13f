package tunnel

import "sync"

// BufferPool recycles the copy buffers of the proxies at both ends, which are
// most of what a request would allocate. It implements httputil.BufferPool.
type BufferPool struct{ pool sync.Pool }

const copyBuffer = 32 << 10 // bytes, as net/http/httputil's own

// NewBufferPool returns an empty pool.
func NewBufferPool() *BufferPool {
	return &BufferPool{sync.Pool{New: func() any { return new([copyBuffer]byte) }}}
}

// Get returns a buffer.
func (p *BufferPool) Get() []byte { return p.pool.Get().(*[copyBuffer]byte)[:] }

// Put takes back a buffer from Get.
func (p *BufferPool) Put(b []byte) {
	if cap(b) >= copyBuffer {
		p.pool.Put((*[copyBuffer]byte)(b[:copyBuffer]))
	}
}

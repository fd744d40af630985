// Vectors of the level of instructions that is compiled for. Functions here and in whatever includes it have internal
// linkage, and nothing is taken from templates of the standard library that the compiler may not inline: the linker
// would keep one copy for all levels, and an old processor could meet instructions that it does not know.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int W =  // floats in a vector
#if defined(__AVX512F__)
    16;
#elif defined(__AVX2__)
    8;
#else
    4;
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t VecInt __attribute__((vector_size(4 * W)));
struct Half {
  uint16_t bits;
};

template <class T>
inline T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
inline void store(void* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// a * b + c, rounded once where the level can
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline Vec widen(const Half* from) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#elif defined(__aarch64__)
  return (Vec)vcvt_f32_f16(vld1_f16((const float16_t*)from));
#else
  typedef uint16_t Shorts __attribute__((vector_size(2 * W)));
  const VecInt bits = __builtin_convertvector(load<Shorts>(from), VecInt), magnitude = (bits & 0x7fff) << 13;
  const VecInt finite = (VecInt)((Vec)magnitude * 0x1p112f), infinite = magnitude | 0x7f800000;
  return (Vec)((magnitude >= 0x0f800000 ? infinite : finite) | (bits & 0x8000) << 16);
#endif
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Memory for `size` numbers at the start of a cache line; not initialised, and lost where it grows.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { release(); }
  void resize(int64_t count) {
    if (count > room_) {
      release();
      room_ = 0, data_ = nullptr;
      data_ = static_cast<T*>(::operator new(count * sizeof(T), ALIGNED));
      room_ = count;
    }
    size_ = count;
  }
  void assign(int64_t count, T value) {
    resize(count);
    for (int64_t i = 0; i < count; ++i) data_[i] = value;
  }
  void swap(Buffer& other) {
    T* const data = data_;
    const int64_t size = size_, room = room_;
    data_ = other.data_, size_ = other.size_, room_ = other.room_;
    other.data_ = data, other.size_ = size, other.room_ = room;
  }
  int64_t size() const { return size_; }
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr std::align_val_t ALIGNED{64};
  T* data_ = nullptr;
  int64_t size_ = 0, room_ = 0;
  void release() {
    if (data_) ::operator delete(data_, ALIGNED);
  }
};

}  // namespace

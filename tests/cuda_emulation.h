// Runs the CUDA sources on a processor without a GPU, so that tests can compare their results with the specification.
//
// Threads are fibers. One warp after the other, in an order that `codec_emulation_order` shuffles, runs as far as it
// gets, so that what is not waited for has not happened yet. Warp-wide instructions wait for the threads of their mask; asynchronous copies happen when they are waited for, not sooner; shared memory starts as
// garbage, and whoever leaves it dies; sums of the matrix instruction lose what the hardware's may lose (Fasi et al.,
// Numerical behavior of NVIDIA tensor cores, 2021): addends are cut off below the last bit of the largest one.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
typedef void* cudaStream_t;
inline void cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { std::memset(to, value, bytes); }
#define CHECK(call) call

struct Device {
  int processors, shared, major;
};

namespace emulation {

struct Copy {
  void* to;
  const void* from;
};
struct Meeting {  // of the threads of a mask
  int arrived = 0;
  unsigned generation = 0;
  void* gifts[32];
};
constexpr size_t GUARD = 1024;  // bytes before and after shared memory that nobody may write
struct Block {
  dim3 index;
  std::vector<unsigned char> memory;
  Meeting meetings[32][33], all;  // of a warp's threads, by the first of some or as the last one of all

  unsigned char* begin() { return (unsigned char*)(((uintptr_t)memory.data() + GUARD + 15) & ~15ull); }
  void check(const void* from) {  // sixteen bytes
    const unsigned char* const at = (const unsigned char*)from;
    if (at < begin() || at + 16 > memory.data() + memory.size() - GUARD) std::abort();
  }
};
constexpr size_t STACK = 64 << 10;
struct Fiber {
  Block* block;
  dim3 index;
  ucontext_t context;
  jmp_buf point;
  std::unique_ptr<char[]> stack{new char[STACK]};
  bool started = false, done = true;
  std::vector<Copy> copies;
};

inline std::vector<Fiber*> fibers;
inline Fiber* current = nullptr;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline dim3 grid, block;
inline Block blocks[8];  // of a cluster
inline Meeting cluster;
inline unsigned cluster_threads = 0, order = 0;
inline uint64_t events = 0;  // threads that got somewhere
inline int64_t launched[3];  // blocks, threads and bytes of shared memory of the last launch
inline Device device{1, 227 << 10, 8};

inline void yield() {
  if (!_setjmp(current->point)) _longjmp(scheduler, 1);
}

inline void enter() {
  for (;;) {
    body();
    current->done = true;
    ++events;
    yield();
  }
}

inline void resume(Fiber* fiber) {
  current = fiber;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->point, 1);
  fiber->started = true;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = STACK;
  makecontext(&fiber->context, enter, 0);
  setcontext(&fiber->context);
}

// The last to arrive does the work for all: gifts[lane] is what each brought.
inline void meet(Meeting& meeting, int members, int place, void* gift, const std::function<void(void**)>& work) {
  meeting.gifts[place] = gift;
  ++events;
  if (++meeting.arrived == members) {
    work(meeting.gifts);
    meeting.arrived = 0;
    ++meeting.generation;
  } else {
    for (const unsigned generation = meeting.generation; meeting.generation == generation;) yield();
  }
}

inline void meet_warp(uint32_t mask, void* gift, const std::function<void(void**)>& work) {
  const unsigned lane = current->index.x % 32;
  if (!(mask >> lane & 1)) std::abort();
  meet(current->block->meetings[current->index.x / 32][~mask ? __builtin_ctz(mask) : 32], __builtin_popcount(mask), lane, gift, work);
}

template <class Kernel>
void launch(unsigned cluster_size, dim3 all_blocks, unsigned threads, size_t bytes, Kernel kernel) {
  std::mt19937 random(order);
  launched[0] = (int64_t)all_blocks.x * all_blocks.y, launched[1] = threads, launched[2] = bytes;
  grid = all_blocks, block = dim3(threads), body = kernel, cluster_threads = cluster_size * threads;
  while (fibers.size() < cluster_threads) fibers.push_back(new Fiber);
  std::vector<std::vector<Fiber*>> warps;
  for (unsigned i = 0; i < cluster_threads; ++i) {
    if (i % threads % 32 == 0) warps.emplace_back();
    warps.back().push_back(fibers[i]);
  }
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; x += cluster_size) {
      for (unsigned i = 0; i < cluster_size; ++i) {
        blocks[i].index = dim3(x + i, y);
        blocks[i].memory.assign(bytes + 15 + 2 * GUARD, 0xff);
      }
      for (unsigned i = 0; i < cluster_threads; ++i) {
        fibers[i]->block = &blocks[i / threads];
        fibers[i]->index = dim3(i % threads), fibers[i]->done = false;
      }
      if (order) {
        std::shuffle(warps.begin(), warps.end(), random);
        for (auto& warp : warps) std::shuffle(warp.begin(), warp.end(), random);
      }
      for (bool left = true; left;) {
        left = false;
        const uint64_t begun = events;
        for (const auto& warp : warps)
          for (uint64_t before = ~events; before != events;) {
            before = events;
            for (Fiber* fiber : warp)
              if (!fiber->done) resume(fiber), left = true;
          }
        if (left && begun == events) std::abort();  // everybody waits for somebody
      }
      for (unsigned i = 0; i < cluster_size; ++i)
        for (const unsigned char& byte : blocks[i].memory)
          if ((&byte < blocks[i].begin() || &byte >= blocks[i].begin() + bytes) && byte != 0xff) std::abort();
    }
}

// base + 8 products as the hardware adds them up.
inline float add_up(float base, const float (&products)[8][2]) {
  double largest = std::abs((double)base), sum = 0;
  for (const auto& pair : products) largest = std::max(largest, std::abs((double)pair[0] * pair[1]));
  if (!(largest < INFINITY)) {
    float special = base;
    for (const auto& pair : products) special += pair[0] * pair[1];
    return special;
  }
  if (largest == 0) return 0;
  const double unit = std::ldexp(1.0, std::max(std::ilogb(largest) - 23, -149));
  sum = std::trunc(base / unit);
  for (const auto& pair : products) sum += std::trunc((double)pair[0] * pair[1] / unit);
  sum *= unit;
  const float nearest = (float)sum;
  return std::abs((double)nearest) > std::abs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}
inline float widen(uint32_t half) {
  const uint32_t bits = half << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace emulation

extern "C" void codec_emulation_order(unsigned seed) { emulation::order = seed; }
extern "C" void codec_emulation_device(int processors, int shared, int major) {
  emulation::device = {processors, shared, major};
}
extern "C" void codec_emulation_launched(int64_t* result) { std::copy_n(emulation::launched, 3, result); }
inline const char* use_device(int, Device& device) { return device = emulation::device, nullptr; }

#define threadIdx (emulation::current->index)
#define blockIdx (emulation::current->block->index)
#define blockDim (emulation::block)
#define gridDim (emulation::grid)
#define DYNAMIC_SHARED(name) unsigned char* const name = emulation::current->block->begin()
#define LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  emulation::launch(1, blocks, threads, bytes, [=] { kernel(__VA_ARGS__); })
#define LAUNCH_CLUSTERS(cluster, kernel, blocks, threads, bytes, stream, ...) \
  emulation::launch(cluster, blocks, threads, bytes, [=] { kernel(__VA_ARGS__); })

using std::max;
using std::min;
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline int __float_as_int(float value) { return (int)__float_as_uint(value); }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int __ffs(uint32_t bits) { return __builtin_ffs((int)bits); }
template <class T, class U>
T atomicAdd(T* to, U value) {
  const T before = *to;
  *to = before + value;
  return before;
}
inline void atomicOr(uint32_t* to, uint32_t value) { *to |= value; }
inline void atomicMax(int* to, int value) { *to = max(*to, value); }

inline void __syncthreads() {
  emulation::meet(emulation::current->block->all, (int)emulation::block.x, 0, nullptr, [](void**) {});
}
inline void cluster_barrier() {
  emulation::meet(emulation::cluster, (int)emulation::cluster_threads, 0, nullptr, [](void**) {});
}
template <class T>
void store_in_cluster(T* shared, int rank, T value) {
  *(T*)(emulation::blocks[rank].begin() + ((unsigned char*)shared - emulation::current->block->begin())) = value;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  emulation::meet_warp(mask, nullptr, [](void**) {});
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int step) {
  T pair[2] = {value, value};
  emulation::meet_warp(mask, pair, [=](void** gifts) {
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) ((T*)gifts[lane])[1] = ((T*)gifts[lane ^ step])[0];
  });
  return pair[1];
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
  uint32_t pair[2] = {vote, 0};
  emulation::meet_warp(mask, pair, [=](void** gifts) {
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) votes |= ((uint32_t*)gifts[lane])[0] << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) ((uint32_t*)gifts[lane])[1] = votes;
  });
  return pair[1];
}

inline uint32_t pack_bfloat16(float low, float high) {
  const auto half = [](float value) {
    const uint32_t bits = __float_as_uint(value);
    return value != value ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return half(low) | half(high) << 16;
}

inline void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Gift {
    float* sum;
    const uint32_t* a;
    uint32_t b[2];
  } gift{sum, a, {b0, b1}};
  emulation::meet_warp(0xffffffffu, &gift, [](void** gifts) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Gift& gift = *(Gift*)gifts[lane];
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i)
        for (int h = 0; h < 2; ++h)
          left[g + i % 2 * 8][t * 2 + h + i / 2 * 8] = emulation::widen(gift.a[i] >> 16 * h & 0xffff);
      for (int i = 0; i < 2; ++i)
        for (int h = 0; h < 2; ++h) right[t * 2 + h + i * 8][g] = emulation::widen(gift.b[i] >> 16 * h & 0xffff);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        float& sum = ((Gift*)gifts[lane])->sum[i];
        for (int half = 0; half < 16; half += 8) {
          float products[8][2];
          for (int k = 0; k < 8; ++k)
            products[k][0] = left[lane / 4 + i / 2 * 8][half + k], products[k][1] = right[half + k][lane % 4 * 2 + i % 2];
          sum = emulation::add_up(sum, products);
        }
      }
  });
}

inline void load_matrices(uint32_t (&b)[4], const void* row) {
  struct Gift {
    uint32_t* b;
    const char* row;
  } gift{b, (const char*)row};
  if ((uintptr_t)row % 16) std::abort();
  emulation::current->block->check(row);
  emulation::meet_warp(0xffffffffu, &gift, [](void** gifts) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        std::memcpy(&((Gift*)gifts[lane])->b[i], ((Gift*)gifts[i * 8 + lane / 4])->row + lane % 4 * 4, 4);
  });
}

inline void copy_async(void* to, const void* from) {
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16) std::abort();
  emulation::current->block->check(to);
  emulation::current->copies.push_back({to, from});
}
inline void copy_wait() {
  for (const auto& copy : emulation::current->copies) std::memcpy(copy.to, copy.from, 16);
  emulation::current->copies.clear();
}

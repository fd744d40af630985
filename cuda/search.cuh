// The search of one block of vectors through all books. README.md beside this file explains the method and proves the
// bound.
#pragma once
#include <cmath>
#include <cstdint>

constexpr int MAX_BEAM = 16;
constexpr int EXTRA = 5;           // elements after the D of a vector: two for the bound, three for -|c|^2 / 2
constexpr int CODE_ALIGN = 128;    // books are filled up to a multiple of this
constexpr float INF = INFINITY;
constexpr float NOTHING = -1e38f;  // a code that has no score gets a lower one; scores that are used stay far above

struct Problem {
  const float* x;            // (groups, rows, dim)
  const float* books;        // (groups, stages, size, dim)
  const uint16_t* prepared;  // (groups, stages, padded, WIDTH) bfloat16
  const float* longest;      // (groups, stages) largest norm of a finite code vector
  int64_t* codes;            // (groups, rows, stages)
  int64_t rows;
  int dim, stages, size, padded, beam, index_bits;
};

__device__ inline float bfloat16_above(float value) {  // value >= 0
  return __uint_as_float(((__float_as_uint(value * 1.001f) >> 16) + 1) << 16);
}

__device__ inline float rounded(float value) { return __uint_as_float(pack_bfloat16(0.0f, value) & 0xffff0000u); }

// How a block is cut. WIDTH elements of a vector with its extras, in KS steps of the matrix units; RW groups of warps
// have lanes of their own, MT * 16 each; the CW warps of a group share out the codes. A tile is BN codes.
// BLOCKS of them share a multiprocessor, which is what registers are counted for.
template <int KS_, int MT_, int RW_, int CW_, int BN_, int BLOCKS_>
struct Shape {
  static constexpr int KS = KS_, MT = MT_, RW = RW_, CW = CW_, BN = BN_, BLOCKS = BLOCKS_;
  static constexpr int WIDTH = KS * 16;
  static constexpr int STRIDE = WIDTH + 8;  // keeps rows of shared memory in different banks
  static constexpr int LANES = RW * MT * 16;
  static constexpr int WARPS = RW * CW, THREADS = WARPS * 32, QUADS = THREADS / 4;
  // Remembering a code costs more than scoring it where vectors are narrow. There a thread remembers the eight codes
  // that it scores together by their highest score, and all eight are settled; elsewhere each code by itself.
  static constexpr bool GROUPED = KS <= 3;
  static constexpr int UNIT = GROUPED ? 32 : 16;         // codes that a warp scores together
  static constexpr int CLASSES = GROUPED ? 4 : 8;        // a thread's codes of a lane; its even and its odd ones
  static constexpr int ENTRIES = 2 * CLASSES * CW;       // remembered per lane: two of each class, per warp
  static constexpr int WORDS = BN / 32;
  static_assert(BN % UNIT == 0 && BN / UNIT >= CW && CODE_ALIGN % BN == 0, "every warp has codes in every tile");
  static_assert(QUADS >= 16, "the second scan has sixteen lanes");
};

// One block. A lane is a path (partial code sequence) of a row; row r has the lanes r * beam + p, p < live.
template <class S>
struct Block {
  const Problem& p;
  const int group, thread, warp, g, t, quad;  // g and t: row and column group of a thread in a fragment
  const uint32_t quad_mask;
  int stage = 0, live = 1, keep = 1;
  const float* book = nullptr;

  // Shared memory, as offsets in bytes: constants, so that no register holds a pointer.
  static constexpr int ERROR = 0;                                        // double (rows, beam) sorted, the best paths
  static constexpr int RESIDUAL = ERROR + S::LANES * 8;                  // float (LANES, STRIDE)
  static constexpr int TILES = RESIDUAL + S::LANES * S::STRIDE * 4;      // bfloat16 (2, BN, STRIDE)
  static constexpr int BEST = TILES + 2 * S::BN * S::STRIDE * 2;         // float (LANES, ENTRIES) highest scores
  static constexpr int OTHER = BEST + S::LANES * S::ENTRIES * 4;         // float (LANES, CW) highest one not in there
  static constexpr int SQUARE = OTHER + S::LANES * S::CW * 4;            // float (LANES) |residual|^2
  static constexpr int SLACK = SQUARE + S::LANES * 4;                    // float (LANES) bound on the error of a score
  static constexpr int INDEX = SLACK + S::LANES * 4;                     // int (rows, beam) parent * size + code
  static constexpr int LENGTH = INDEX + S::LANES * 4;                    // int (rows) of the lists
  static constexpr int PENDING = LENGTH + S::LANES * 4;                  // int (LANES) lanes to scan again
  static constexpr int PENDING_COUNT = PENDING + S::LANES * 4;           // int
  static constexpr int NEED = PENDING_COUNT + 16;                        // float (16) what the second scan looks for
  static constexpr int MARKS = NEED + 64;                                // bits (16, BN) that it has found
  static constexpr int HISTORY = MARKS + 16 * S::WORDS * 4;              // uint (stages, LANES) parent << 16 | code

  static size_t bytes(int stages, int beam) { return HISTORY + (beam > 1 ? (size_t)stages * S::LANES * 4 : 0); }

  template <class T>
  __device__ static T* at(int offset) {
    DYNAMIC_SHARED(shared);
    return (T*)(shared + offset);
  }

  __device__ explicit Block(const Problem& problem)
      : p(problem),
        group(blockIdx.y),
        thread(threadIdx.x),
        warp(threadIdx.x / 32),
        g(threadIdx.x % 32 / 4),
        t(threadIdx.x % 4),
        quad(threadIdx.x / 4),
        quad_mask(0xfu << (threadIdx.x % 32 / 4 * 4)) {}

  // What lies there.
  __device__ static float* residual() { return at<float>(RESIDUAL); }
  __device__ static uint16_t* tiles() { return at<uint16_t>(TILES); }
  __device__ static float* best() { return at<float>(BEST); }
  __device__ static float* other() { return at<float>(OTHER); }
  __device__ static float* square() { return at<float>(SQUARE); }
  __device__ static float* slack() { return at<float>(SLACK); }
  __device__ static double* error() { return at<double>(ERROR); }
  __device__ static int* index() { return at<int>(INDEX); }
  __device__ static int* length() { return at<int>(LENGTH); }
  __device__ static int* pending() { return at<int>(PENDING); }
  __device__ static float* need() { return at<float>(NEED); }
  __device__ static uint32_t* marks() { return at<uint32_t>(MARKS); }
  __device__ static uint32_t* history() { return at<uint32_t>(HISTORY); }
  __device__ static int* pending_count() { return at<int>(PENDING_COUNT); }

  __device__ void load_tile(int tile) {
    constexpr int PARTS = S::WIDTH / 8;  // sixteen bytes each
    const uint16_t* from = p.prepared + (((int64_t)group * p.stages + stage) * p.padded + tile * S::BN) * S::WIDTH;
    uint16_t* to = tiles() + tile % 2 * S::BN * S::STRIDE;
    for (int i = thread; i < S::BN * PARTS; i += S::THREADS)
      copy_async(to + i / PARTS * S::STRIDE + i % PARTS * 8, from + i * 8);
  }

  // Scores of 16 * MT lanes against this warp's part of all codes; lane_of[m][h] is the lane of row g + 8 h of fragment
  // m. Calls sink(unit, scores) for the codes UNIT * unit + 8 n + 2 t + i % 2 of scores[n][m][i], i / 2 = h. With AFTER
  // also after(tile), when all warps have scored the tile and none has begun with the next.
  template <bool AFTER, int MT, class Sink, class After>
  __device__ void scan(const int (&lane_of)[MT][2], int part, int parts, Sink sink, After after) {
    constexpr int PAIRS = S::UNIT / 16;
    uint32_t a[MT][S::KS][4];
    load_tile(0);
#pragma unroll
    for (int k = 0; k < S::KS; ++k) {
      if (k % 8 == 7) __syncwarp();  // not everything at once: what is not rounded yet takes twice the registers
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = residual() + lane_of[m][i % 2] * S::STRIDE + k * 16 + i / 2 * 8 + 2 * t;
          a[m][k][i] = pack_bfloat16(pair[0], pair[1]);
        }
    }
    const int tile_count = p.padded / S::BN, in_warp = thread % 32;
    for (int tile = 0; tile < tile_count; ++tile) {
      copy_wait();
      __syncthreads();  // the tile is there, and nobody reads the one before
      if (tile + 1 < tile_count) load_tile(tile + 1);
#pragma unroll 1
      for (int unit = part; unit < S::BN / S::UNIT; unit += parts) {
        const uint16_t* row = tiles() + in_warp / 8 % 2 * 8 +
                              (tile % 2 * S::BN + unit * S::UNIT + in_warp / 16 * 8 + in_warp % 8) * S::STRIDE;
        float sum[2 * PAIRS][MT][4] = {};
#pragma unroll
        for (int k = 0; k < S::KS; ++k)
#pragma unroll
          for (int n = 0; n < PAIRS; ++n) {
            uint32_t b[4];
            load_matrices(b, row + n * 16 * S::STRIDE + k * 16);
#pragma unroll
            for (int m = 0; m < MT; ++m) {
              multiply(sum[2 * n][m], a[m][k], b[0], b[1]);
              multiply(sum[2 * n + 1][m], a[m][k], b[2], b[3]);
            }
          }
        sink(tile * (S::BN / S::UNIT) + unit, sum);
      }
      if constexpr (AFTER) {
        __syncthreads();
        after(tile);
      }
    }
  }

  struct Top {
    float high = -INF, next = -INF;

    // What falls out goes to `rest`. A score that is no number does not count; no code that has one can be near.
    __device__ void add(float score, float& rest) {
      const float lesser = fminf(high, score);
      rest = fmaxf(rest, fminf(next, lesser));
      next = fmaxf(next, lesser);
      high = fmaxf(high, score);
    }
  };

  // A score whose lowest bits say whose it is.
  __device__ float tagged(float score, int tag) const {
    return __uint_as_float((__float_as_uint(score) & ~0u << p.index_bits) | (uint32_t)tag);
  }
  __device__ int tag_of(float score) const { return (int)(__float_as_uint(score) & ~(~0u << p.index_bits)); }

  // First scan: of each class the two highest scores of a lane are remembered, and the highest of all others.
  __device__ void scan_all() {
    const int first = warp / S::CW * S::MT * 16, part = warp % S::CW;
    constexpr int HALVES = S::CLASSES / 4;
    int lane_of[S::MT][2];
    Top top[S::MT][2][HALVES];
    float rest[S::MT][2];
#pragma unroll
    for (int m = 0; m < S::MT; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) lane_of[m][h] = first + m * 16 + h * 8 + g, rest[m][h] = -INF;
    scan<false>(
        lane_of, part, S::CW,
        [&](int unit, const float(&scores)[S::UNIT / 8][S::MT][4]) {
#pragma unroll
          for (int m = 0; m < S::MT; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              if constexpr (S::GROUPED) {
                float high = -INF;
#pragma unroll
                for (int n = 0; n < 4; ++n) high = fmaxf(high, fmaxf(scores[n][m][2 * h], scores[n][m][2 * h + 1]));
                top[m][h][0].add(tagged(high, unit), rest[m][h]);
              } else {
#pragma unroll
                for (int odd = 0; odd < 2; ++odd) {  // the lesser of two is not remembered, which is cheap
                  const float one = tagged(scores[0][m][2 * h + odd], 2 * unit);
                  const float two = tagged(scores[1][m][2 * h + odd], 2 * unit + 1);
                  rest[m][h] = fmaxf(rest[m][h], fminf(one, two));
                  top[m][h][odd].add(fmaxf(one, two), rest[m][h]);
                }
              }
            }
        },
        [](int) {});
#pragma unroll
    for (int m = 0; m < S::MT; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* const entries = best() + lane_of[m][h] * S::ENTRIES + part * 2 * S::CLASSES;
#pragma unroll
        for (int odd = 0; odd < HALVES; ++odd) {
          entries[t * HALVES + odd] = top[m][h][odd].high;
          entries[S::CLASSES + t * HALVES + odd] = top[m][h][odd].next;
        }
        float low = rest[m][h];
        low = fmaxf(low, __shfl_xor_sync(0xffffffffu, low, 1));
        low = fmaxf(low, __shfl_xor_sync(0xffffffffu, low, 2));
        if (t == 0) other()[lane_of[m][h] * S::CW + part] = low;
      }
  }

  // The distance of reference.py, by the four threads of a quad: thread t has the running sums t and t + 4.
  __device__ double distance(int lane, int code) const {
    const float *x = residual() + lane * S::STRIDE, *c = book + (int64_t)code * p.dim;
    double sums[2] = {0, 0};
    for (int j = t; j < p.dim; j += 8) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (j + 4 * h >= p.dim) break;
        const double d = __dsub_rn((double)x[j + 4 * h], (double)c[j + 4 * h]);
        sums[h] = __dadd_rn(sums[h], __dmul_rn(d, d));
      }
    }
    double sum = __dadd_rn(sums[0], sums[1]);
    sum = __dadd_rn(sum, __shfl_xor_sync(quad_mask, sum, 2));
    sum = __dadd_rn(sum, __shfl_xor_sync(quad_mask, sum, 1));
    return sum == sum ? sum : (double)INF;
  }

  // The same by one thread.
  __device__ double own_distance(int lane, int code) const {
    const float *x = residual() + lane * S::STRIDE, *c = book + (int64_t)code * p.dim;
    double sums[8] = {};
    for (int j = 0; j < p.dim; j += 8)
#pragma unroll
      for (int l = 0; l < 8; ++l)
        if (j + l < p.dim) {
          const double d = __dsub_rn((double)x[j + l], (double)c[j + l]);
          sums[l] = __dadd_rn(sums[l], __dmul_rn(d, d));
        }
#pragma unroll
    for (int half = 4; half; half /= 2)
#pragma unroll
      for (int l = 0; l < half; ++l) sums[l] = __dadd_rn(sums[l], sums[l + half]);
    return sums[0] == sums[0] ? sums[0] : (double)INF;
  }

  // Takes a path into the list of its row if it is among the best; by one thread.
  __device__ void insert(int row, int path, double d) {
    double* const errors = error() + row * p.beam;
    int* const indices = index() + row * p.beam;
    const int filled = length()[row];
    const auto before = [&](int i) { return d < errors[i] || (d == errors[i] && path < indices[i]); };
    if (filled == keep && !before(keep - 1)) return;
    for (int i = 0; i < filled; ++i)
      if (indices[i] == path) return;  // the second scan meets what the first has settled
    int at = filled == keep ? keep - 1 : filled;
    length()[row] = at + 1;
    for (; at > 0 && before(at - 1); --at) errors[at] = errors[at - 1], indices[at] = indices[at - 1];
    errors[at] = d, indices[at] = path;
  }

  // Settles a code: its exact distance decides; by a whole quad.
  __device__ void settle(int row, int lane, int code) {
    const double d = distance(lane, code);
    if (t == 0) insert(row, (lane - row * p.beam) * p.size + code, d);
    __syncwarp(quad_mask);
  }

  // Settles what an entry of a lane stands for; by a whole quad.
  __device__ void settle_entry(int row, int lane, int entry) {
    const int tag = tag_of(best()[lane * S::ENTRIES + entry]);
    if constexpr (!S::GROUPED) {
      if (tag * 8 + entry % 8 < p.size) settle(row, lane, tag * 8 + entry % 8);
    } else {
      double d[2];
      int code[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // the thread's share of eight codes
        code[i] = tag * 32 + entry % 4 * 2 + (t / 2 + 2 * i) * 8 + t % 2;
        d[i] = code[i] < p.size ? own_distance(lane, code[i]) : (double)INF;
        if (code[i] >= p.size) code[i] = p.size;  // after all others
      }
      const int parent = (lane - row * p.beam) * p.size;
      if (keep == 1) {
        double least = d[1] < d[0] ? d[1] : d[0];
        int which = d[1] < d[0] ? code[1] : code[0];
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
          const double other_d = __shfl_xor_sync(quad_mask, least, step);
          const int other_code = __shfl_xor_sync(quad_mask, which, step);
          if (other_d < least || (other_d == least && other_code < which)) least = other_d, which = other_code;
        }
        if (t == 0 && which < p.size) insert(row, parent + which, least);
      } else {
        for (int turn = 0; turn < 4; ++turn) {  // one thread at a time
          if (t == turn)
            for (int i = 0; i < 2; ++i)
              if (code[i] < p.size) insert(row, parent + code[i], d[i]);
          __syncwarp(quad_mask);
        }
      }
      __syncwarp(quad_mask);
    }
  }

  // The score that a code of a lane needs to enter the list.
  __device__ float needed(int row, int lane) const {
    if (length()[row] < keep) return -INF;
    const double score = ((double)square()[lane] - error()[row * p.beam + keep - 1]) / 2 - slack()[lane];
    const double safe = score - fabs(score) * 0x1p-22;
    return safe == safe ? (float)safe : -INF;
  }

  // Settles what the first scan remembers of a row; lanes that may have better codes than those become pending.
  __device__ void settle_row(int row) {
    const int first = row * p.beam;
    if (t == 0) length()[row] = 0;
    bool no_number = true;
    for (int lane = first; lane < first + live; ++lane) no_number = no_number && slack()[lane] != slack()[lane];
    if (no_number) {  // all distances are infinite
      for (int i = t; i < keep; i += 4) error()[first + i] = INF, index()[first + i] = i;
      if (t == 0) length()[row] = keep;
      return;
    }
    __syncwarp(quad_mask);
    while (length()[row] < keep) {  // the most promising until the list is full
      float top = -INF;
      int entry = -1;
      for (int lane = first; lane < first + live; ++lane)
        for (int e = t; e < S::ENTRIES; e += 4) {
          const float score = best()[lane * S::ENTRIES + e], key = score - square()[lane] / 2;
          if (score > NOTHING && key > top) top = key, entry = lane * S::ENTRIES + e;
        }
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other_top = __shfl_xor_sync(quad_mask, top, step);
        const int other_entry = __shfl_xor_sync(quad_mask, entry, step);
        if (other_top > top || (other_top == top && other_entry > entry)) top = other_top, entry = other_entry;
      }
      if (entry < 0) break;
      settle_entry(row, entry / S::ENTRIES, entry % S::ENTRIES);
      if (t == 0) best()[entry] = -INF;
      __syncwarp(quad_mask);
    }
    for (int lane = first; lane < first + live; ++lane) {
      float least = needed(row, lane);
      for (int e = t; e < S::ENTRIES; e += 4) {
        const float score = best()[lane * S::ENTRIES + e];
        uint32_t hits = __ballot_sync(quad_mask, score > NOTHING && score >= least) >> (g * 4) & 0xf;
        for (; hits; hits &= hits - 1) {
          settle_entry(row, lane, e - t + __ffs(hits) - 1);
          least = needed(row, lane);
        }
      }
    }
    if (t == 0)
      for (int lane = first; lane < first + live; ++lane) {
        float low = -INF;
        for (int part = 0; part < S::CW; ++part) low = fmaxf(low, other()[lane * S::CW + part]);
        if (!(low < needed(row, lane))) pending()[atomicAdd(pending_count(), 1)] = lane;
      }
  }

  // Second scan, of sixteen pending lanes by all warps: settles every code whose score is high enough.
  __device__ void scan_pending(int from) {
    const int slots = min(16, *pending_count() - from);
    const int* const lanes = pending() + from;
    if (thread < 16) need()[thread] = thread < slots ? needed(lanes[thread] / p.beam, lanes[thread]) : INF;
    for (int i = thread; i < 16 * S::WORDS; i += S::THREADS) marks()[i] = 0;
    const int lane_of[1][2] = {{lanes[min(g, slots - 1)], lanes[min(g + 8, slots - 1)]}};
    scan<true>(
        lane_of, warp, S::WARPS,
        [&](int unit, const float(&scores)[S::UNIT / 8][1][4]) {
#pragma unroll
          for (int n = 0; n < S::UNIT / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int slot = g + i / 2 * 8, code = unit * S::UNIT + n * 8 + t * 2 + i % 2, bit = code % S::BN;
              if (slot < slots && code < p.size && !(scores[n][0][i] < need()[slot]))
                atomicOr(&marks()[slot * S::WORDS + bit / 32], 1u << bit % 32);
            }
        },
        [&](int tile) {
          if (quad >= slots) return;
          const int row = lanes[quad] / p.beam;  // the quad of its first slot has the whole row
          for (int slot = 0; slot < quad; ++slot)
            if (lanes[slot] / p.beam == row) return;
          for (int slot = quad; slot < slots; ++slot) {
            if (lanes[slot] / p.beam != row) continue;
            for (int word = 0; word < S::WORDS; ++word) {
              uint32_t bits = marks()[slot * S::WORDS + word];
              __syncwarp(quad_mask);
              if (t == 0) marks()[slot * S::WORDS + word] = 0;
              for (; bits; bits &= bits - 1) settle(row, lanes[slot], tile * S::BN + word * 32 + __ffs(bits) - 1);
            }
          }
          for (int slot = quad + t; slot < slots; slot += 4)
            if (lanes[slot] / p.beam == row) need()[slot] = needed(row, lanes[slot]);
        });
    __syncthreads();
  }

  // Norm and error bound of a lane, and the elements after its vector; by a quad.
  __device__ void measure(int lane, int next_stage) {
    float* const x = residual() + lane * S::STRIDE;
    float norm = 0, lost = 0, top = 0;
    for (int j = t; j < p.dim; j += 4) {
      const float value = x[j], low = value - rounded(value);
      norm += value * value, lost += low * low, top = fmaxf(top, fabsf(value));
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      norm += __shfl_xor_sync(quad_mask, norm, step);
      lost += __shfl_xor_sync(quad_mask, lost, step);
      top = fmaxf(top, __shfl_xor_sync(quad_mask, top, step));
    }
    const float whole = sqrtf(norm), low = sqrtf(lost);
    const float code = p.longest[group * p.stages + next_stage];
    const float terms = whole * code * 1.05f + code * code / 2;
    float bound = terms * ((S::WIDTH + 8) * 0x1p-22f + exp2f((float)(p.index_bits - 22)));
    bound += norm * ((p.dim + 8) * 0x1p-24f) + (norm + code * code) * ((p.dim + 64) * 0x1p-54f);
    bound = bound * 1.01f + S::WIDTH * 0x1p-120f;
    // nothing is known where squares vanish or overflow
    if (!(bound < 1e30f && norm < 1e30f && (top == 0 || top > 0x1p-40f))) bound = INF;
    if (!(top < INF) || norm != norm) bound = NAN;
    if (t == 0) {
      square()[lane] = norm, slack()[lane] = bound;
      x[p.dim] = bfloat16_above(low), x[p.dim + 1] = bfloat16_above(whole + low);
      x[p.dim + 2] = x[p.dim + 3] = x[p.dim + 4] = 1;
    }
  }

  // The listed paths become the lanes of the row.
  __device__ void advance(int row, int64_t global_row) {
    const int first = row * p.beam;
    if (p.beam == 1) {
      const int code = index()[first];
      float* const x = residual() + first * S::STRIDE;
      const float* const c = book + (int64_t)code * p.dim;
      for (int j = t; j < p.dim; j += 4) x[j] = __fsub_rn(x[j], c[j]);
      if (t == 0) p.codes[((int64_t)group * p.rows + global_row) * p.stages + stage] = code;
      return;
    }
    uint32_t* const paths = history() + stage * S::LANES + first;
    for (int i = t; i < keep; i += 4)
      paths[i] = (uint32_t)(index()[first + i] / p.size) << 16 | (uint32_t)(index()[first + i] % p.size);
    __syncwarp(quad_mask);
    for (int j = t; j < p.dim; j += 4) {
      float child[MAX_BEAM];
#pragma unroll
      for (int i = 0; i < MAX_BEAM; ++i)
        if (i < keep)
          child[i] = __fsub_rn(residual()[(first + (paths[i] >> 16)) * S::STRIDE + j],
                               book[(int64_t)(paths[i] & 0xffff) * p.dim + j]);
#pragma unroll
      for (int i = 0; i < MAX_BEAM; ++i)
        if (i < keep) residual()[(first + i) * S::STRIDE + j] = child[i];
    }
  }

  __device__ void trace(int row, int64_t global_row) const {
    int64_t* const codes = p.codes + ((int64_t)group * p.rows + global_row) * p.stages;
    uint32_t path = 0;
    for (int k = p.stages - 1; k >= 0; --k) {
      const uint32_t step = history()[k * S::LANES + row * p.beam + path];
      codes[k] = step & 0xffff, path = step >> 16;
    }
  }

  __device__ void run() {
    const int per_block = S::LANES / p.beam;
    const int64_t begin = (int64_t)blockIdx.x * per_block;
    const int count = (int)min((int64_t)per_block, p.rows - begin);
    for (int i = thread; i < S::LANES * S::STRIDE; i += S::THREADS) residual()[i] = 0;
    __syncthreads();
    for (int row = quad; row < count; row += S::QUADS) {
      const float* x = p.x + ((int64_t)group * p.rows + begin + row) * p.dim;
      for (int j = t; j < p.dim; j += 4) residual()[row * p.beam * S::STRIDE + j] = x[j];
      measure(row * p.beam, 0);
    }
    for (stage = 0; stage < p.stages; ++stage) {
      book = p.books + ((int64_t)group * p.stages + stage) * p.size * p.dim;
      keep = (int)min((int64_t)p.beam, (int64_t)live * p.size);
      if (thread == 0) *pending_count() = 0;
      __syncthreads();
      scan_all();
      __syncthreads();
      for (int row = quad; row < count; row += S::QUADS) settle_row(row);
      __syncthreads();
      const int left = *pending_count();
      for (int from = 0; from < left; from += 16) scan_pending(from);
      live = keep;
      for (int row = quad; row < count; row += S::QUADS) {
        advance(row, begin + row);
        if (stage + 1 < p.stages)  // the bound is that of the next book
          for (int lane = row * p.beam; lane < row * p.beam + live; ++lane) measure(lane, stage + 1);
      }
    }
    __syncthreads();
    if (p.beam > 1)
      for (int row = thread; row < count; row += S::THREADS) trace(row, begin + row);
  }
};

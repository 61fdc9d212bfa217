// The native engine's inner loops: products of int8 codes, tile by tile, compared at once with what is known of rows
// and columns; pairs that pass are measured in float64. Plain C interface, no allocation, no exception, no thread of
// its own: the caller lends all memory, and runs slices of tasks in threads of his. Python's side is `__init__`.
//
// A row x is kept as codes q with x = step q + rest in a map that lengthens no difference, E >= |rest| (`_int8.encoder`):
//
//   step |q_i - q_j| - E_i - E_j  <=  d(i, j)                                                             (1)
//   -2 c  <=  |q_i - q_j|^2  <=  2 - 2 c,   c = q_i . q_j - h_i - h_j,   h = floor(|q|^2 / 2)             (2)
//   i needs only those j with  c >= -((t_i + E_i + E_j) / step)^2 / 2,   t_i its k-th distance so far     (3)
//   d(i, j)  <=  step |q_i - q_j| + E_i + E_j                        (rotation codes only)                (4)
//   j may be i's farthest only if  c <= 1 - ((f_i - E_i - E_j) / step)^2 / 2,   f_i its largest so far    (5)
//
// (3) is lowered and (5) raised by 3 for the rounding of their own float64 arithmetic.
//
// AVX2 has no product of signed bytes: `maddubs` takes one side unsigned, u = q + 63, and adds pairs of products in 16
// bits. With codes within +-63 a pair is at most 2 * 126 * 63 < 2^15, and what the 63 adds, -63 (q_0 + q_1) of the
// signed side, is taken off in 16 bits too, where sums may wrap on the way: 8 signed products are at most
// 8 * 63^2 < 2^15. So four `maddubs` are added before they are widened,                                 (6)
// and eight of them where Cauchy and Schwarz allow it: 16 products lie within |a| |b|, the lengths of the 16 codes
// that meet in 16 bits, and these seldom are near 4 * 63.                                               (7)

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define POSE2ID_X86
#elif defined(__aarch64__)
#include <arm_neon.h>
#define POSE2ID_NEON
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#define POSE2ID_TARGET(name)
#define POSE2ID_EXPORT extern "C" __declspec(dllexport)
#else
#define POSE2ID_TARGET(name) __attribute__((target(name)))
#define POSE2ID_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

constexpr int STRIP = 16;                   // rows that are multiplied one after the other, as quads,
constexpr int PANEL = 32;                   // with so many columns, which lie together as two halves;
constexpr int QUAD = 4, HALF = PANEL / 2;
constexpr int GROUP = 16, LONG_GROUP = 32;  // codes that are summed in 16 bits by (6) and by (7)
constexpr int TILE = STRIP * PANEL;
constexpr int32_t NONE = -800000000;        // below every c of two rows, above those of padding
constexpr int32_t NEVER = 1000000000;       // a limit that no product passes

// ------------------------------------------------------------------------------------------------ products of a tile

// Sixteen rows, ready to be multiplied with panels: [4][columns / 4][4 rows][4] codes, [4][groups][4 rows] what (6) and
// (7) take off, as two int16, and what is taken off in whole where products are summed in 32 bits at once. A panel is
// [2][columns / 4][16 rows][4] codes.
struct Strip {
  int8_t* codes;
  int32_t* pairs;
  int32_t whole[STRIP];
  int32_t group;  // codes of a group; the last one may have fewer

  int64_t groups(int64_t columns) const { return (columns + group - 1) / group; }
};

using Load = void (*)(Strip&, const uint8_t* panel, int64_t columns, int32_t offset);
using Multiply = void (*)(const Strip&, const uint8_t* panel, int64_t columns, int32_t* out);
using Scan = uint32_t (*)(const int32_t* out, const int32_t* half, const int32_t* limits, int32_t own, int32_t limit);
using Measure = double (*)(const void* left, const void* right, int64_t width, double scale);

struct Machine {
  const char* name;
  int32_t level, offset;  // the largest code; what is added to codes in panels
  Load load;
  Multiply multiply;
  Scan near, far;
  Measure narrow, wide;   // of float32 and of float64 rows
};

// Codes of the rows of half a panel, signed again, with what (6) takes off.
void load_plain(Strip& strip, const uint8_t* panel, int64_t columns, int32_t offset) {
  for (int r = 0; r < STRIP; r++) {
    int8_t* codes = strip.codes + r / QUAD * columns * QUAD + r % QUAD * 4;
    int32_t whole = 0;
    for (int64_t at = 0; at < columns / 4; at++)
      for (int i = 0; i < 4; i++) {
        codes[at * QUAD * 4 + i] = (int8_t)(panel[at * HALF * 4 + r * 4 + i] - offset);
        whole -= offset * codes[at * QUAD * 4 + i];
      }
    strip.whole[r] = whole;
  }
}

// out (16, 32) = rows . columns, exact.
void multiply_plain(const Strip& strip, const uint8_t* panel, int64_t columns, int32_t* out) {
  std::memset(out, 0, TILE * sizeof(int32_t));
  for (int r = 0; r < STRIP; r++)
    for (int c = 0; c < PANEL; c++) {
      const int8_t* left = strip.codes + r / QUAD * columns * QUAD + r % QUAD * 4;
      const uint8_t* right = panel + c / HALF * columns * HALF + c % HALF * 4;
      for (int64_t at = 0; at < columns / 4; at++)
        for (int i = 0; i < 4; i++) out[r * PANEL + c] += left[at * QUAD * 4 + i] * (int8_t)right[at * HALF * 4 + i];
    }
}

// Which of 32 columns pass the limit of the row or their own: c >= limit, with out = c + own + half. Bit by bit.
template <bool far>
uint32_t scan_plain(const int32_t* out, const int32_t* half, const int32_t* limits, int32_t own, int32_t limit) {
  uint32_t hits = 0;
  for (int c = 0; c < PANEL; c++) {
    const int32_t mine = half[c] + limit, theirs = limits[c] + own;
    const bool hit = far ? out[c] <= std::max(mine, theirs) : out[c] >= std::min(mine, theirs);
    hits |= uint32_t{hit} << c;
  }
  return hits;
}

// The squared distance of two rows: float64 sums of differences. Sixteen sums at once are what compilers vectorise.
template <class T>
inline double sum_squares(const T* left, const T* right, int64_t width, double scale) {
  double sums[16] = {0}, total = 0;
  int64_t at = 0;
  for (; at + 16 <= width; at += 16)
    for (int i = 0; i < 16; i++) {
      const double apart = ((double)left[at + i] - (double)right[at + i]) * scale;
      sums[i] += apart * apart;
    }
  for (; at < width; at++) {
    const double apart = ((double)left[at] - (double)right[at]) * scale;
    total += apart * apart;
  }
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) sums[i] += sums[i + half];
  return total + sums[0];
}

double measure_narrow(const void* left, const void* right, int64_t width, double) {
  return sum_squares((const float*)left, (const float*)right, width, 1.0);  // no square leaves the range of float64
}
double measure_wide(const void* left, const void* right, int64_t width, double scale) {
  return sum_squares((const double*)left, (const double*)right, width, scale);
}

#ifdef POSE2ID_X86
POSE2ID_TARGET("avx2") inline __m256i word(const void* at) {
  int32_t value;
  std::memcpy(&value, at, 4);
  return _mm256_set1_epi32(value);
}

// `whole` is for products that are summed in 32 bits at once, and left alone.
POSE2ID_TARGET("avx2") void load_avx2(Strip& strip, const uint8_t* panel, int64_t columns, int32_t offset) {
  const __m256i added = _mm256_set1_epi8((char)offset);
  const int64_t groups = strip.groups(columns), length = strip.group / 4;
  __m128i *codes = (__m128i*)strip.codes, *pairs = (__m128i*)strip.pairs;
  for (int64_t group = 0; group < groups; group++) {
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t at = group * length; at < std::min((group + 1) * length, columns / 4); at++)
      for (int i = 0; i < 2; i++) {
        const __m256i* from = (const __m256i*)(panel + at * HALF * 4) + i;
        const __m256i eight = _mm256_sub_epi8(_mm256_loadu_si256(from), added);
        _mm_storeu_si128(codes + at + 2 * i * columns / 4, _mm256_castsi256_si128(eight));
        _mm_storeu_si128(codes + at + (2 * i + 1) * columns / 4, _mm256_extracti128_si256(eight, 1));
        sums[i] = _mm256_sub_epi16(sums[i], _mm256_maddubs_epi16(added, eight));
      }
    for (int i = 0; i < 2; i++) {
      _mm_storeu_si128(pairs + group + 2 * i * groups, _mm256_castsi256_si128(sums[i]));
      _mm_storeu_si128(pairs + group + (2 * i + 1) * groups, _mm256_extracti128_si256(sums[i], 1));
    }
  }
}

// Compilers reorder sums of integers, and then have too few registers.
POSE2ID_TARGET("avx2") inline void keep_order(__m256i& value) {
#if !defined(_MSC_VER)
  asm("" : "+x"(value));
#endif
}

// Four rows and sixteen columns by (6) or (7), added to `out`, which has rows of 32.
template <int SIZE>
POSE2ID_TARGET("avx2")
void add_groups(const int8_t* codes, const int32_t* pairs, const uint8_t* panel, int64_t groups, int32_t* out) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i* const sums = (__m256i*)out;  // (4, 4), of which the first two columns
  for (; groups > 0; groups--, pairs += QUAD) {
    __m256i part[4][2];
    for (int r = 0; r < 4; r++) part[r][0] = part[r][1] = word(pairs + r);
    for (int i = 0; i < SIZE / 4; i++, panel += HALF * 4, codes += QUAD * 4) {
      const __m256i first = _mm256_loadu_si256((const __m256i*)panel);
      const __m256i second = _mm256_loadu_si256((const __m256i*)(panel + 32));
      for (int r = 0; r < 4; r++) {
        const __m256i row = word(codes + r * 4);
        part[r][0] = _mm256_add_epi16(part[r][0], _mm256_maddubs_epi16(first, row));
        part[r][1] = _mm256_add_epi16(part[r][1], _mm256_maddubs_epi16(second, row));
        keep_order(part[r][0]);
        keep_order(part[r][1]);
      }
    }
    for (int r = 0; r < 4; r++)
      for (int c = 0; c < 2; c++)
        sums[r * 4 + c] = _mm256_add_epi32(sums[r * 4 + c], _mm256_madd_epi16(part[r][c], ones));
  }
}

void multiply_avx2(const Strip& strip, const uint8_t* panel, int64_t columns, int32_t* out) {
  std::memset(out, 0, TILE * sizeof(int32_t));
  const int64_t groups = columns / strip.group, done = groups * strip.group;
  for (int half = 0; half < 2; half++)
    for (int quad = 0; quad < STRIP / QUAD; quad++) {
      const int8_t* codes = strip.codes + quad * columns * QUAD;
      const int32_t* pairs = strip.pairs + quad * strip.groups(columns) * QUAD;
      const uint8_t* right = panel + half * columns * HALF;
      int32_t* sums = out + quad * QUAD * PANEL + half * HALF;
      if (strip.group == GROUP) {
        add_groups<GROUP>(codes, pairs, right, groups, sums);
        continue;
      }
      add_groups<LONG_GROUP>(codes, pairs, right, groups, sums);
      add_groups<GROUP>(codes + done * QUAD, pairs + groups * QUAD, right + done * HALF, (columns - done) / GROUP, sums);
    }
}

template <bool far>
POSE2ID_TARGET("avx2")
uint32_t scan_avx2(const int32_t* out, const int32_t* half, const int32_t* limits, int32_t own, int32_t limit) {
  const __m256i mine = _mm256_set1_epi32(limit), norm = _mm256_set1_epi32(own);
  uint32_t misses = 0;
  for (int c = 0; c < PANEL; c += 8) {
    const __m256i value = _mm256_loadu_si256((const __m256i*)(out + c));
    const __m256i a = _mm256_add_epi32(mine, _mm256_loadu_si256((const __m256i*)(half + c)));
    const __m256i b = _mm256_add_epi32(norm, _mm256_loadu_si256((const __m256i*)(limits + c)));
    const __m256i miss = far ? _mm256_cmpgt_epi32(value, _mm256_max_epi32(a, b))
                             : _mm256_cmpgt_epi32(_mm256_min_epi32(a, b), value);
    misses |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(miss)) << c;
  }
  return ~misses;
}

POSE2ID_TARGET("avx2,fma") double narrow_avx2(const void* left, const void* right, int64_t width, double) {
  const float *a = (const float*)left, *b = (const float*)right;
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
  int64_t at = 0;
  for (; at + 16 <= width; at += 16)
    for (int i = 0; i < 4; i++) {
      const __m256d apart = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(a + at + 4 * i)),
                                          _mm256_cvtps_pd(_mm_loadu_ps(b + at + 4 * i)));
      sums[i] = _mm256_fmadd_pd(apart, apart, sums[i]);
    }
  double four[4];
  _mm256_storeu_pd(four, _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3])));
  return (four[0] + four[1]) + (four[2] + four[3]) + sum_squares(a + at, b + at, width - at, 1.0);
}

// Eight rows and 32 columns at a time by AVX512-VNNI: four products of unsigned and signed bytes summed in 32 bits.
POSE2ID_TARGET("avx512f,avx512bw,avx512vl,avx512vnni")
void multiply_vnni(const Strip& strip, const uint8_t* panel, int64_t columns, int32_t* out) {
  for (int top = 0; top < STRIP; top += 8) {
    __m512i sums[8][2];
    for (int r = 0; r < 8; r++) sums[r][0] = sums[r][1] = _mm512_set1_epi32(strip.whole[top + r]);
    const int8_t* codes = strip.codes + top * columns;
    for (int64_t at = 0; at < columns / 4; at++, codes += QUAD * 4) {
      const __m512i first = _mm512_loadu_si512(panel + at * HALF * 4);
      const __m512i second = _mm512_loadu_si512(panel + (columns / 4 + at) * HALF * 4);
      for (int r = 0; r < 8; r++) {
        int32_t value;
        std::memcpy(&value, codes + r / QUAD * columns * QUAD + r % QUAD * 4, 4);
        const __m512i row = _mm512_set1_epi32(value);
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first, row);
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], second, row);
      }
    }
    for (int r = 0; r < 8; r++)
      for (int c = 0; c < 2; c++) _mm512_storeu_si512(out + (top + r) * PANEL + c * HALF, sums[r][c]);
  }
}

bool supports(bool vnni) {
#if defined(_MSC_VER)
  int info[4];
  __cpuid(info, 1);
  if (!(info[2] & (1 << 27)) || !(info[2] & (1 << 12))) return false;  // the system keeps wide registers; FMA
  const uint64_t kept = _xgetbv(0);
  __cpuidex(info, 7, 0);
  if (!vnni) return (kept & 6) == 6 && (info[1] & (1 << 5));
  const uint32_t wanted = 1u << 16 | 1u << 30 | 1u << 31;  // AVX512 F, BW, VL
  return (kept & 0xe6) == 0xe6 && ((uint32_t)info[1] & wanted) == wanted && (info[2] >> 11 & 1);
#else
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  return !vnni || (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl"));
#endif
}
#endif

#ifdef POSE2ID_NEON
#if defined(__clang__)
#define POSE2ID_DOTPROD POSE2ID_TARGET("dotprod")
#else
#define POSE2ID_DOTPROD POSE2ID_TARGET("arch=armv8.2-a+dotprod")
#endif

// `vdotq_s32`, which Clang before 16 hides where not the whole file may use it.
POSE2ID_DOTPROD inline int32x4_t add_products(int32x4_t sums, int8x16_t left, int8x16_t right) {
  asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(left), "w"(right));
  return sums;
}

// Eight rows and eight columns at a time, by dot products of signed bytes.
POSE2ID_DOTPROD void multiply_neon(const Strip& strip, const uint8_t* panel, int64_t columns, int32_t* out) {
  for (int top = 0; top < STRIP; top += 8)
    for (int c = 0; c < PANEL; c += 8) {
      int32x4_t sums[8][2];
      for (int r = 0; r < 8; r++) sums[r][0] = sums[r][1] = vdupq_n_s32(0);
      const int8_t *left = strip.codes + top * columns, *right = (const int8_t*)panel + c / HALF * columns * HALF;
      right += c % HALF * 4;
      for (int64_t at = 0; at < columns / 4; at++, left += QUAD * 4, right += HALF * 4) {
        const int8x16_t first = vld1q_s8(right), second = vld1q_s8(right + 16);
        for (int r = 0; r < 8; r++) {
          int32_t value;
          std::memcpy(&value, left + r / QUAD * columns * QUAD + r % QUAD * 4, 4);
          const int8x16_t row = vreinterpretq_s8_s32(vdupq_n_s32(value));
          sums[r][0] = add_products(sums[r][0], first, row);
          sums[r][1] = add_products(sums[r][1], second, row);
        }
      }
      for (int r = 0; r < 8; r++)
        for (int i = 0; i < 2; i++) vst1q_s32(out + (top + r) * PANEL + c + 4 * i, sums[r][i]);
    }
}

bool has_dot_products() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
#else
  return true;  // Apple's and Windows' ARM64 machines of today have them
#endif
}
#endif

constexpr Machine PLAIN = {"portable",         127, 0, load_plain, multiply_plain, scan_plain<false>,
                           scan_plain<true>, measure_narrow, measure_wide};

// The machine of a number: 0 portable, 1 AVX2, 2 AVX512-VNNI, 3 NEON; null where this one cannot.
const Machine* find_machine(int32_t number) {
#ifdef POSE2ID_X86
  static constexpr Machine avx2 = {"AVX2", 63, 63, load_avx2, multiply_avx2, scan_avx2<false>, scan_avx2<true>, narrow_avx2,
                                   measure_wide};
  static constexpr Machine vnni = {"AVX512-VNNI", 127, 128, load_plain, multiply_vnni, scan_avx2<false>, scan_avx2<true>,
                                   narrow_avx2, measure_wide};
  if (number == 1) return supports(false) ? &avx2 : nullptr;
  if (number == 2) return supports(true) ? &vnni : nullptr;
#endif
#ifdef POSE2ID_NEON
  static constexpr Machine neon = {"NEON", 127, 0, load_plain, multiply_neon, scan_plain<false>, scan_plain<true>, measure_narrow,
                                   measure_wide};
  if (number == 3) return has_dot_products() ? &neon : nullptr;
#endif
  return number == 0 ? &PLAIN : nullptr;
}

// ---------------------------------------------------------------------------------------------- what the caller lends

}  // namespace

// One of the two sets of a sweep, in sweeping order, padded to whole panels; `Side` of Python.
struct Side {
  const uint8_t* panels;   // [rows / 16][columns / 4][16][4]
  const int32_t* half;     // h of (2), 950,000,000 for padding
  const double* error;     // E
  const int32_t* order;    // rows of the set, -1 for padding
  const int64_t* labels;   // or null
  const int32_t* lanes;    // (count / 16,) the largest squared length by (7)
  const void* rows;        // (n, width) float32 or float64, in their own order
  int64_t count;           // with padding
};

template <class T>
constexpr bool is_plain = std::atomic<T>::is_always_lock_free && sizeof(std::atomic<T>) == sizeof(T);
static_assert(is_plain<uint8_t> && is_plain<float> && is_plain<int32_t> && is_plain<int64_t> && is_plain<double>,
              "atomics lie in memory that Python lends");

// `Sweep` of Python, which holds what it points to. `threads` may run tasks at the same time.
struct Sweep {
  Side left, right, outer;            // outer: the rows that give first bounds of the farthest
  int64_t columns, width, k, cap;     // of codes, of rows; neighbours; pairs a row may measure
  int64_t block;                      // rows of a block, a multiple of 32
  double step, scale, rounding;       // rounding: what a float64 distance may be off by, as a share
  int32_t machine, within, wide;      // wide: rows are float64, their distances in the frame
  int32_t room;                       // pairs that `doubtful` has room for
  std::atomic<uint8_t>* locks;        // of the rows of the left side, as all that follows
  std::atomic<float>* limits;         // the k-th distance so far in the frame, inf; -1 where a row is set aside
  std::atomic<int32_t>* counts;       // pairs measured
  uint64_t* keys;                     // (n, k) heaps: the bits of the distance rounded to float32, then the row
  std::atomic<double>* farthest;      // the largest distance so far, or null
  int32_t* farthest_rows;
  int32_t* doubtful;                  // (room, 2) pairs whose float32 distance float64 sums leave open
  std::atomic<int64_t>* doubts;       // how many there were
  std::atomic<int64_t>* measured;     // pairs measured by all rows
};

namespace {

// What a thread works with while it looks at one block against another; its memory lies in the caller's scratch.
struct Work {
  const Sweep& sweep;
  const Machine& machine;
  Strip strip;
  int32_t* tiles;    // products of the strip with all panels of the block
  int32_t* near;     // h + limit of the block's columns by (3),
  int32_t* far;      // and by (5)
  uint64_t* hits;    // of one row: how much c lacks, then the column
  uint32_t* seen;    // (block, block) bits: pairs that were measured
  const Side& right;
  int64_t first, stop, begin, end;  // rows, columns
  bool own, both;                   // the block with itself; columns take part as rows too
  double error, across;             // the largest E of the columns, and of the rows
  int64_t measured = 0;
};

template <class T>
T largest(const T* values, int64_t first, int64_t stop) {
  return *std::max_element(values + first, values + stop);
}

// The least c by (3) for a distance t, in the frame, which was rounded to float32.
int32_t near_limit(const Sweep& sweep, float t, double errors) {
  if (t < 0) return NEVER;
  const double radius = (t * (1 + 0x1p-22) + errors) / sweep.step;
  const double limit = std::floor(radius * radius / -2 - 3);
  return limit < NONE ? NONE : (int32_t)limit;
}

// The largest c by (5).
int32_t far_limit(const Sweep& sweep, double f, double errors) {
  const double radius = ((sweep.wide ? f : f * sweep.scale) * (1 - 0x1p-40) - errors) / sweep.step;
  return radius <= 0 ? 8 : (int32_t)std::max(std::ceil(radius * radius / -2 + 4), (double)NONE);
}

struct Lock {
  std::atomic<uint8_t>& flag;
  explicit Lock(std::atomic<uint8_t>& flag) : flag(flag) {
    while (flag.exchange(1, std::memory_order_acquire)) std::this_thread::yield();
  }
  ~Lock() { flag.store(0, std::memory_order_release); }
};

// A pair that was measured, for one of its rows: into the heap of its k nearest.
void take_near(const Sweep& sweep, int64_t row, int32_t other, float distance) {
  uint32_t bits;
  std::memcpy(&bits, &distance, 4);
  const uint64_t key = (uint64_t{bits} << 32) | (uint32_t)other;
  uint64_t* heap = sweep.keys + row * sweep.k;
  const Lock lock(sweep.locks[row]);
  if (key >= heap[0] || std::find(heap, heap + sweep.k, key) != heap + sweep.k) return;  // it may be there already
  std::pop_heap(heap, heap + sweep.k);
  heap[sweep.k - 1] = key;
  std::push_heap(heap, heap + sweep.k);
  bits = (uint32_t)(heap[0] >> 32);
  std::memcpy(&distance, &bits, 4);
  if (sweep.limits[row].load(std::memory_order_relaxed) < 0) return;  // it is set aside
  sweep.limits[row].store(sweep.wide ? distance : (float)(distance * sweep.scale), std::memory_order_relaxed);
}

void take_far(const Sweep& sweep, int64_t row, int32_t other, double distance) {
  const Lock lock(sweep.locks[row]);
  if (distance <= sweep.farthest[row].load(std::memory_order_relaxed)) return;
  sweep.farthest[row].store(distance, std::memory_order_relaxed);
  sweep.farthest_rows[row] = other;
}

void set_aside(const Sweep& sweep, int64_t row) {
  const Lock lock(sweep.locks[row]);
  sweep.limits[row].store(-1, std::memory_order_relaxed);
}

// One more pair of a row is measured; whether it may.
bool count_pair(const Sweep& sweep, int64_t row) {
  if (sweep.counts[row].fetch_add(1, std::memory_order_relaxed) < sweep.cap) return true;
  set_aside(sweep, row);
  return false;
}

bool labelled_alike(const Work& work, int64_t row, int64_t column) {
  const Side& left = work.sweep.left;
  return left.labels && work.right.labels && left.labels[row] == work.right.labels[column];
}

// Whether a pair is met for the first time in these blocks.
bool is_new(Work& work, int64_t row, int64_t column) {
  const auto mark = [&](int64_t left, int64_t right) -> bool {
    uint32_t &word = work.seen[(left * work.sweep.block + right) / 32], bit = uint32_t{1} << right % 32;
    const bool fresh = !(word & bit);
    word |= bit;
    return fresh;
  };
  if (work.own) mark(column - work.first, row - work.begin);
  return mark(row - work.first, column - work.begin);
}

// Measure a pair of positions; `near_row`, ... say for which of the two, and what for.
void measure(Work& work, int64_t row, int64_t column, bool near_row, bool near_column, bool far_row, bool far_column) {
  const Sweep& sweep = work.sweep;
  const int32_t own = sweep.left.order[row], other = work.right.order[column];
  const int64_t bytes = sweep.width * (sweep.wide ? sizeof(double) : sizeof(float));
  const void *a = (const char*)sweep.left.rows + own * bytes, *b = (const char*)work.right.rows + other * bytes;
  const Measure squared = sweep.wide ? work.machine.wide : work.machine.narrow;
  const double distance = std::sqrt(squared(a, b, sweep.width, sweep.scale));
  work.measured++;
  if (far_row) take_far(sweep, row, other, distance);
  if (far_column) take_far(sweep, column, own, distance);
  if (!near_row && !near_column) return;
  const float lower = (float)(distance * (1 - sweep.rounding)), upper = (float)(distance * (1 + sweep.rounding));
  if (lower != upper && !sweep.wide) {
    const int64_t at = sweep.doubts->fetch_add(1, std::memory_order_relaxed);
    if (at < sweep.room) {
      sweep.doubtful[2 * at] = (int32_t)row;
      sweep.doubtful[2 * at + 1] = (int32_t)column;
      return;
    }
    if (near_row) set_aside(sweep, row);
    if (near_column) set_aside(sweep, column);
    return;
  }
  if (near_row) take_near(sweep, row, other, lower);
  if (near_column) take_near(sweep, column, own, lower);
}

// A product that passed a limit of its block: is it within those of the two rows as they are now?
void look_at(Work& work, int64_t row, int64_t column, int32_t c, bool far) {
  const Sweep& sweep = work.sweep;
  if (work.right.order[column] < 0 || (work.own && row == column)) return;
  const double errors = sweep.left.error[row] + work.right.error[column];
  if (far) {
    const bool mine = c <= far_limit(sweep, sweep.farthest[row].load(std::memory_order_relaxed), errors);
    const bool theirs =
        work.both && c <= far_limit(sweep, sweep.farthest[column].load(std::memory_order_relaxed), errors);
    if (mine || theirs) measure(work, row, column, false, false, mine, theirs);
    return;
  }
  if (labelled_alike(work, row, column)) return;
  bool mine = c >= near_limit(sweep, sweep.limits[row].load(std::memory_order_relaxed), errors);
  bool theirs = work.both && c >= near_limit(sweep, sweep.limits[column].load(std::memory_order_relaxed), errors);
  mine = mine && count_pair(sweep, row);
  theirs = theirs && count_pair(sweep, column);
  if ((mine || theirs) && is_new(work, row, column)) measure(work, row, column, mine, theirs || work.own, false, false);
}

int32_t product(const Work& work, int64_t row, int64_t column) {
  const int64_t at = column - work.begin;
  return work.tiles[(at / PANEL * STRIP + row % STRIP) * PANEL + at % PANEL] - work.sweep.left.half[row] -
         work.right.half[column];
}

// The most promising columns of the block for a row that has no limit yet are measured first.
void begin_near(Work& work, int64_t row) {
  int32_t best[64];
  int64_t where[64];
  int64_t found = 0;
  const Sweep& sweep = work.sweep;
  const int64_t k = sweep.k;
  for (int64_t column = work.begin; column < work.end; column++) {
    const int32_t c = product(work, row, column);
    if (c < NONE || (found == k && c <= best[k - 1]) || (work.own && row == column)) continue;
    if (labelled_alike(work, row, column)) continue;
    int64_t at = found < k ? found++ : k - 1;
    for (; at > 0 && best[at - 1] < c; at--) best[at] = best[at - 1], where[at] = where[at - 1];
    best[at] = c, where[at] = column;
  }
  for (int64_t at = 0; at < found; at++)
    if (is_new(work, row, where[at])) measure(work, row, where[at], true, work.both || work.own, false, false);
}

// So is the farthest of the outer rows.
void begin_far(Work& work, int64_t row) {
  int64_t where = work.begin;
  for (int64_t column = work.begin; column < work.end; column++)
    if (work.right.order[column] >= 0 && product(work, row, column) < product(work, row, where)) where = column;
  measure(work, row, where, false, false, true, false);
}

void find_column_limits(Work& work) {
  const Sweep& sweep = work.sweep;
  for (int64_t column = work.begin; column < work.end; column++) {
    const bool real = work.both && work.right.order[column] >= 0;
    const double errors = real ? work.right.error[column] + work.across : 0;
    const int32_t half = work.right.half[column];
    work.near[column - work.begin] =
        real ? half + near_limit(sweep, sweep.limits[column].load(std::memory_order_relaxed), errors) : NEVER;
    if (sweep.farthest)
      work.far[column - work.begin] =
          real ? half + far_limit(sweep, sweep.farthest[column].load(std::memory_order_relaxed), errors) : -NEVER;
  }
}

// The limit of a row against the block, on c + h of the row.
int32_t row_limit(const Work& work, int64_t row, bool far) {
  const Sweep& sweep = work.sweep;
  const double errors = sweep.left.error[row] + work.error;
  return sweep.left.half[row] + (far ? far_limit(sweep, sweep.farthest[row].load(std::memory_order_relaxed), errors)
                                     : near_limit(sweep, sweep.limits[row].load(std::memory_order_relaxed), errors));
}

// Everything of one row against the block that passes a limit, the most promising pairs first.
void scan_row(Work& work, int64_t row, bool far) {
  const Scan scan = far ? work.machine.far : work.machine.near;
  const int32_t own = work.sweep.left.half[row], *tile = work.tiles + row % STRIP * PANEL;
  const int32_t *limits = far ? work.far : work.near, limit = row_limit(work, row, far);
  uint64_t* end = work.hits;
  for (int64_t column = work.begin; column < work.end; column += PANEL, tile += TILE, limits += PANEL) {
    uint32_t hits = scan(tile, work.right.half + column, limits, own, limit);
    for (int c = 0; hits; c++, hits >>= 1) {
      if (!(hits & 1)) continue;
      const int32_t value = tile[c] - own - work.right.half[column + c];
      *end++ = (uint64_t)(uint32_t)(far ? value - 2 * NONE : NEVER - value) << 32 | (uint32_t)(column + c);
    }
  }
  std::sort(work.hits, end);
  for (uint64_t* hit = work.hits; hit < end; hit++) {
    const int32_t lack = (int32_t)(*hit >> 32);
    look_at(work, row, (uint32_t)*hit, far ? lack + 2 * NONE : NEVER - lack, far);
  }
}

enum Kind { OUTER, ALL };  // first bounds of the farthest from the outer rows; all pairs of two blocks

// Codes of a group for rows and columns with this product of squared lengths.
int32_t choose_group(int64_t lengths) { return lengths < int64_t{1} << 30 ? LONG_GROUP : GROUP; }

void visit(Work& work, Kind kind) {
  const Sweep& sweep = work.sweep;
  std::memset(work.seen, 0, sweep.block * sweep.block / 8);
  work.error = largest(work.right.error, work.begin, work.end);
  work.across = largest(sweep.left.error, work.first, work.stop);
  const int64_t lanes = largest(sweep.left.lanes, work.first / HALF, work.stop / HALF);
  work.strip.group = choose_group(lanes * largest(work.right.lanes, work.begin / HALF, work.end / HALF));
  if (kind != OUTER) find_column_limits(work);
  for (int64_t row = work.first; row < work.stop; row += STRIP) {
    const int64_t bytes = sweep.columns * PANEL;
    const uint8_t* panel = sweep.left.panels + row / HALF * (bytes / 2);
    work.machine.load(work.strip, panel, sweep.columns, work.machine.offset);
    for (int64_t column = work.begin; column < work.end; column += PANEL)
      work.machine.multiply(work.strip, work.right.panels + column / PANEL * bytes, sweep.columns,
                            work.tiles + (column - work.begin) * STRIP);
    for (int64_t each = row; each < row + STRIP; each++) {
      if (sweep.left.order[each] < 0) continue;
      if (kind == OUTER) {
        begin_far(work, each);
        continue;
      }
      if (std::isinf(sweep.limits[each].load(std::memory_order_relaxed))) begin_near(work, each);
      scan_row(work, each, false);
      if (sweep.farthest) scan_row(work, each, true);
    }
  }
}

// The largest sum of squares, among sixteen rows, of the codes that meet in 16 bits by (7).
int32_t largest_lane(const int8_t* codes, int64_t columns) {
  int32_t most = 0;
  for (int r = 0; r < HALF; r++, codes += columns)
    for (int64_t group = 0; group < columns; group += LONG_GROUP) {
      int32_t sums[4] = {0};
      for (int64_t at = group; at < std::min(group + LONG_GROUP, columns); at += 4)
        for (int i = 0; i < 4; i++) sums[i] += codes[at + i] * codes[at + i];
      most = std::max({most, sums[0] + sums[1], sums[2] + sums[3]});
    }
  return most;
}

// 64-byte aligned pieces of the caller's scratch.
template <class T>
T* take(char*& scratch, int64_t count) {
  T* piece = (T*)(((uintptr_t)scratch + 63) / 64 * 64);
  scratch = (char*)(piece + count);
  return piece;
}

}  // namespace

POSE2ID_EXPORT int32_t pose2id_abi_version() { return 2; }

// The name of a machine, and its largest code; null where it is not this one.
POSE2ID_EXPORT const char* pose2id_machine(int32_t number, int32_t* level) {
  const Machine* machine = find_machine(number);
  if (machine) *level = machine->level;
  return machine ? machine->name : nullptr;
}

// Bytes of scratch that `pose2id_sweep` wants; `pose2id_pack` and `pose2id_multiply` with a block of 0.
POSE2ID_EXPORT int64_t pose2id_scratch(int64_t columns, int64_t block) {
  return 64 * 8 + columns * STRIP + columns / GROUP * STRIP * 4 + (STRIP + 4) * block * 4 + block * block / 8;
}

// Rows of codes (rows, columns), rows a multiple of 32, as panels, in place. `lanes` (rows / 16,) is filled.
POSE2ID_EXPORT void pose2id_pack(uint8_t* codes, int64_t rows, int64_t columns, int32_t number, int32_t* lanes,
                                 char* scratch) {
  const int32_t offset = find_machine(number)->offset;
  uint8_t* copy = take<uint8_t>(scratch, columns * HALF);
  for (int64_t half = 0; half < rows / HALF; half++, codes += columns * HALF) {
    std::memcpy(copy, codes, columns * HALF);
    lanes[half] = largest_lane((const int8_t*)copy, columns);
    for (int64_t at = 0; at < columns / 4; at++)
      for (int c = 0; c < HALF; c++)
        for (int i = 0; i < 4; i++) codes[(at * HALF + c) * 4 + i] = (uint8_t)(copy[c * columns + at * 4 + i] + offset);
  }
}

// Run tasks: (kind, block of the left side, block of the right or the outer side).
POSE2ID_EXPORT void pose2id_sweep(const Sweep* sweep, const int32_t* tasks, int64_t count, char* scratch) {
  const Machine& machine = *find_machine(sweep->machine);
  Strip strip{take<int8_t>(scratch, sweep->columns * STRIP), take<int32_t>(scratch, sweep->columns / GROUP * STRIP), {}, GROUP};
  int32_t* tiles = take<int32_t>(scratch, sweep->block * STRIP);
  int32_t *near = take<int32_t>(scratch, sweep->block), *far = take<int32_t>(scratch, sweep->block);
  uint64_t* hits = take<uint64_t>(scratch, sweep->block);
  uint32_t* seen = take<uint32_t>(scratch, sweep->block * sweep->block / 32);
  for (; count--; tasks += 3) {
    const Kind kind = (Kind)tasks[0];
    const Side& right = kind == OUTER ? sweep->outer : sweep->right;
    const int64_t first = tasks[1] * sweep->block, begin = tasks[2] * sweep->block;
    const bool own = sweep->within && kind != OUTER && tasks[1] == tasks[2];
    Work work{*sweep, machine, strip, tiles, near, far, hits, seen, right, first, std::min(first + sweep->block, sweep->left.count),
              begin, std::min(begin + sweep->block, right.count), own, sweep->within && !own && kind != OUTER, 0, 0};
    visit(work, kind);
    sweep->measured->fetch_add(work.measured, std::memory_order_relaxed);
  }
}

// The product of the first 16 rows of a panel with all of it, for tests. `out` (16, 32) lies at a multiple of 64.
POSE2ID_EXPORT void pose2id_multiply(const uint8_t* panel, int64_t columns, int32_t number, const int32_t* lanes,
                                     int32_t* out, char* scratch) {
  const Machine& machine = *find_machine(number);
  Strip strip{take<int8_t>(scratch, columns * STRIP), take<int32_t>(scratch, columns / GROUP * STRIP), {},
              choose_group(int64_t{lanes[0]} * std::max(lanes[0], lanes[1]))};
  machine.load(strip, panel, columns, machine.offset);
  machine.multiply(strip, panel, columns, out);
}

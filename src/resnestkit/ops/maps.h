// What the kernels share: numbers of 16 and of 32 bits, computed with in 32.

#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr long BLOCK = 64;  // channels whose sums stay in registers

struct Bfloat16 {
  uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(Bfloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <class T>
inline T narrow(float value);

template <>
inline float narrow<float>(float value) {
  return value;
}

template <>
inline Bfloat16 narrow<Bfloat16>(float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {uint16_t(value != value ? 0x7fc0u : rounded)};
}

}  // namespace

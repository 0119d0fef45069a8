// One op under test on one backend in one dtype. The test makes every matrix through this class, which puts
// it on the device among guard bytes, with rows further apart than they are long, and outputs full of NaN;
// finish() then holds the op to what no case has to say: every output element was written, no input and no
// byte outside the elements was.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "llmft/base/rng.hpp"
#include "ops/matrix.hpp"
#include "ops/oracle.hpp"

namespace llmft::test {

// A fresh seed for each run of the program; LLMFT_TEST_SEED repeats one.
inline uint64_t test_seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("LLMFT_TEST_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  }();
  return seed;
}

class OpTest {
 public:
  OpTest(Ops& ops_under_test, DType type) : ops(ops_under_test), dtype(type) {}

  Ops& ops;
  DType dtype;
  // What f32 arithmetic may add to the rounding of a result: sums of some hundred terms of either sign, in
  // any order, and an exp of arguments of size 10. Matrix products in tf32 add the rounding of both operands.
  double f32_slack = 2e-6;
  double matmul_slack = 2e-6;
  // Of attention's result and twice of its gradients, beside their roundings; grows with the scores.
  int64_t most_attention_tokens = 1 << 20;  // larger packs are left out
  double attention_slack = 2e-6;
  // How much further apart rows are than long, taken in turn.
  std::vector<int64_t> gaps = {0, 1, 8, 3};
  // Roundings an attention's result may carry: one, and more where a backend rounds probabilities on the way.
  double attention_roundings = 1;

  // Standard normals times scale, rounded to the dtype (of the test, where none is given).
  Matrix normal(int64_t rows, int64_t cols, double scale = 1) { return normal_of(dtype, rows, cols, scale); }
  Matrix normal_of(DType type, int64_t rows, int64_t cols, double scale = 1) {
    CounterRng rng(test_seed(), stream_++);
    Matrix x(rows, cols);
    for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = rounded_to(type, scale * rng.normal(i));
    return x;
  }
  std::vector<int32_t> integers(int64_t count, int64_t below) {
    CounterRng rng(test_seed(), stream_++);
    std::vector<int32_t> result;
    for (int64_t i = 0; i < count; ++i)
      result.push_back(
          static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), static_cast<uint64_t>(below))));
    return result;
  }

  Tensor input(const Matrix& x) { return input_of(dtype, x); }
  Tensor input_of(DType type, const Matrix& x) { return make(type, x.rows, x.cols, Role::input, &x); }
  Tensor in_place(const Matrix& x) { return in_place_of(dtype, x); }
  Tensor in_place_of(DType type, const Matrix& x) { return make(type, x.rows, x.cols, Role::in_place, &x); }
  Tensor output(int64_t rows, int64_t cols) { return output_of(dtype, rows, cols); }
  Tensor output_of(DType type, int64_t rows, int64_t cols) {
    return make(type, rows, cols, Role::output, nullptr);
  }
  Indices indices(const std::vector<int32_t>& values) {
    size_t bytes = values.size() * sizeof(int32_t);
    std::vector<std::byte> image(bytes);
    if (bytes != 0) std::memcpy(image.data(), values.data(), bytes);
    held_.push_back({Buffer(ops.device(), bytes, MemoryPart::workspace), {}, Role::input, image});
    if (bytes != 0) ops.device().copy_to_device(held_.back().buffer.data(), image.data(), bytes);
    return {static_cast<const int32_t*>(held_.back().buffer.data()), static_cast<int64_t>(values.size())};
  }

  // The elements of a tensor, or of a part of one, as they are now.
  Matrix read(const Tensor& x) {
    Matrix result(x.rows, x.cols);
    size_t row_bytes = static_cast<size_t>(x.cols) * size_of(x.dtype);
    std::vector<std::byte> row(row_bytes);
    for (int64_t i = 0; i < x.rows && row_bytes != 0; ++i) {
      ops.device().copy_to_host(row.data(), x.row_range(i, 1).data, row_bytes);
      ops.device().synchronize();
      visit_dtype(x.dtype, [&]<class S>(S) {
        for (int64_t j = 0; j < x.cols; ++j) {
          S value;
          std::memcpy(&value, row.data() + static_cast<size_t>(j) * sizeof(S), sizeof(S));
          result(i, j) = to_float(value);
        }
      });
    }
    return result;
  }

  // What ||got - want|| may be: so many roundings to the tensor's dtype, each at most unit_roundoff of
  // ||want||, and so many times the size of what f32 added up: ||want||, or `terms` where larger terms may
  // cancel.
  struct Allow {
    double roundings = 1;
    double slack = 0;
    double terms = 0;
  };
  void expect(const char* what, const Tensor& x, const Matrix& want) {
    expect(what, x, want, {.roundings = 1, .slack = f32_slack});
  }
  void expect(const char* what, const Tensor& x, const Matrix& want, const Allow& allow) {
    INFO(fmt::format("{} [{}, {}]", what, want.rows, want.cols));
    REQUIRE(x.rows == want.rows);
    REQUIRE(x.cols == want.cols);
    double size = norm_of(want), tolerance = allow.roundings * unit_roundoff(x.dtype) * size;
    tolerance += allow.slack * std::max(size, allow.terms);
    // below 2^-14 the values of f16 are 2^-24 apart
    if (x.dtype == DType::f16) tolerance += allow.roundings * 0x1p-25 * std::sqrt(want.values.size());
    CHECK(distance(read(x), want) <= tolerance);
  }
  void expect_exactly(const char* what, const Tensor& x, const Matrix& want) {
    expect(what, x, want, {.roundings = 0});
  }

  // After the case's last op; forgets all tensors.
  void finish() {
    for (const Held& held : held_) check_bytes(held);
    held_.clear();
  }

 private:
  enum class Role { input, in_place, output };
  struct Held {
    Buffer buffer;
    Tensor tensor;  // empty for indices, which have no gaps
    Role role;
    std::vector<std::byte> image;  // of the whole buffer before the op
  };
  static constexpr size_t kGuard = 256;        // bytes before and after
  static constexpr uint16_t kPoison = 0x7fa5;  // a NaN as bf16 and f16, and twice in a row as f32

  Tensor make(DType type, int64_t rows, int64_t cols, Role role, const Matrix* values) {
    int64_t ld = cols + gaps[next_gap_++ % gaps.size()];
    size_t element = size_of(type), bytes = 2 * kGuard + static_cast<size_t>(rows * ld) * element;
    std::vector<std::byte> image(bytes + bytes % 2);
    for (size_t i = 0; i < image.size(); i += 2) std::memcpy(image.data() + i, &kPoison, 2);
    Held held{Buffer(ops.device(), image.size(), MemoryPart::workspace), {}, role, {}};
    held.tensor = {static_cast<std::byte*>(held.buffer.data()) + kGuard, type, rows, cols, ld};
    if (values != nullptr)
      visit_dtype(type, [&]<class S>(S) {
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < cols; ++j) {
            S value = from_float<S>(static_cast<float>((*values)(i, j)));
            double kept = to_float(value), wanted = (*values)(i, j);
            if (kept != wanted && !std::isnan(wanted)) FAIL("the test's input is not a value of its dtype");
            std::memcpy(image.data() + kGuard + static_cast<size_t>(i * ld + j) * element, &value, element);
          }
      });
    ops.device().copy_to_device(held.buffer.data(), image.data(), image.size());
    held.image = std::move(image);
    held_.push_back(std::move(held));
    return held_.back().tensor;
  }

  void check_bytes(const Held& held) {
    std::vector<std::byte> now(held.image.size());
    if (!now.empty()) ops.device().copy_to_host(now.data(), held.buffer.data(), now.size());
    ops.device().synchronize();
    int64_t outside = 0, inputs = 0, unwritten = 0;
    for (size_t i = 0; i < now.size(); ++i) {
      if (held.role == Role::input) inputs += now[i] != held.image[i];
      if (held.role == Role::input) continue;
      if (!inside(held.tensor, i)) outside += now[i] != held.image[i];
    }
    if (held.role == Role::output)
      for (int64_t row = 0; row < held.tensor.rows; ++row)
        for (int64_t col = 0; col < held.tensor.cols; ++col) {
          size_t size = size_of(held.tensor.dtype);
          size_t at = kGuard + static_cast<size_t>(row * held.tensor.ld + col) * size;
          unwritten += std::memcmp(now.data() + at, held.image.data() + at, size) == 0;
        }
    CHECK_MESSAGE(inputs == 0, "bytes of an input or around it were changed");
    CHECK_MESSAGE(outside == 0, "bytes outside an output's elements were changed");
    CHECK_MESSAGE(unwritten == 0, "elements of an output were not written");
  }

  static bool inside(const Tensor& x, size_t byte) {
    size_t pitch = static_cast<size_t>(x.ld) * size_of(x.dtype);
    if (byte < kGuard || pitch == 0 || byte >= kGuard + static_cast<size_t>(x.rows) * pitch) return false;
    return (byte - kGuard) % pitch < static_cast<size_t>(x.cols) * size_of(x.dtype);
  }

  std::deque<Held> held_;
  uint64_t stream_ = 0;
  size_t next_gap_ = 0;
};

struct OpCase {
  const char* name;
  void (*run)(OpTest&);
};

// Runs every case; a failure names the op, the dtype and the seed.
template <class Cases>
void run_cases(OpTest& test, const Cases& cases) {
  for (const OpCase& op_case : cases) {
    INFO(fmt::format("op {}, {}, LLMFT_TEST_SEED={}", op_case.name, name_of(test.dtype), test_seed()));
    op_case.run(test);
    test.finish();
  }
}

}  // namespace llmft::test

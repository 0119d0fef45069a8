// The tables of op cases on the CUDA backend, and what it promises beyond formulas: results that repeat bit
// for bit, overflow that shows, memory that runs out with a clear word. Attention has tests of its own.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string_view>

#include "llmft/base/file.hpp"
#include "llmft/ops/backend.hpp"
#include "ops/gradient_cases.hpp"
#include "ops/wide_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  MESSAGE("skipped: no GPU on this machine");
  return true;
}

struct Gpu {
  std::unique_ptr<Device> device = make_cuda_device(0);
  std::unique_ptr<Ops> ops;
  explicit Gpu(MatmulMode mode = MatmulMode::f32, const GemmTuning& tuning = {})
      : ops(make_cuda_ops(*device, mode, KernelChoice::measured, tuning)) {}
};

GemmTuning first_algorithms() {
  GemmTuning tuning;
  tuning.choice = GemmTuning::Choice::first;
  return tuning;
}

std::vector<OpCase> without_attention(const std::vector<OpCase>& cases) {
  std::vector<OpCase> result;
  for (const OpCase& op_case : cases)
    if (!std::string_view(op_case.name).starts_with("attention")) result.push_back(op_case);
  return result;
}

void run_all(Ops& ops, DType type, double matmul_slack) {
  OpTest odd(ops, type);
  odd.matmul_slack = matmul_slack;
  run_cases(odd, without_attention(op_cases()));
  run_cases(odd, wide_cases());
  OpTest aligned(ops, type);
  aligned.matmul_slack = matmul_slack;
  aligned.gaps = {0, 64, 8};
  run_cases(aligned, without_attention(op_cases()));
  run_cases(aligned, wide_cases());
}

// Tensor cores truncate their running sum at about 22 bits: 2.5e-6 was measured at K = 2112.
constexpr double kF32 = 4e-6;
constexpr double kTf32 = 0x1p-10;  // both operands rounded to 2^-11

std::vector<uint64_t> bits_of(const Matrix& x) {
  std::vector<uint64_t> bits;
  for (double value : x.values) bits.push_back(std::bit_cast<uint64_t>(value));
  return bits;
}

// The sums of the backend: over rows, tokens of one kind, classes, inner dimensions.
std::vector<Matrix> sums_in(Ops& ops, DType type) {
  OpTest t(ops, type);  // draws the same numbers each time
  t.gaps = {0, 8};
  Matrix x = t.normal(500, 256), dy = t.normal(500, 256), w = t.normal(1, 256);
  Tensor y = t.output(500, 256), rstd = t.output_of(DType::f32, 1, 500);
  Tensor dx = t.in_place(t.normal(500, 256)), dw = t.in_place_of(DType::f32, Matrix(1, 256));
  ops.norm(t.input(x), t.input(w), 1e-5f, {}, y, rstd);
  ops.norm_backward(t.input(dy), t.input(x), t.input(w), rstd, {}, dx, dw);
  Tensor table = t.in_place_of(DType::f32, Matrix(7, 256));
  ops.embed_backward(t.indices(t.integers(500, 7)), t.input(dy), table);
  Tensor weight = t.in_place_of(DType::f32, Matrix(256, 256));
  for (int micro_batch = 0; micro_batch < 2; ++micro_batch)
    ops.matmul(Layout::tn, t.input(dy), t.input(x), weight, 1, 1, weight);
  Tensor product = t.output(500, 500);
  ops.matmul(Layout::nt, t.input(x), t.input(dy), product);
  Tensor logits = t.in_place(t.normal(3, 50000, 3)), loss = t.output_of(DType::f32, 1, 3);
  ops.cross_entropy(logits, t.indices({1, 40000, 49999}), 0.5f, loss, LossMode::loss_and_gradient);
  std::vector<Matrix> results;
  for (const Tensor& tensor : {y, rstd, dx, dw, table, weight, product, logits, loss})
    results.push_back(t.read(tensor));
  results.push_back(Matrix(1, 1, sum_on(ops, loss)));
  return results;
}

struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "llmft-gemm-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
};

}  // namespace

TEST_CASE("CUDA ops in fp32 compute their formulas") {
  if (no_gpu()) return;
  Gpu gpu;
  run_all(*gpu.ops, DType::f32, kF32);
}

TEST_CASE("CUDA ops in bf16 compute their formulas, rounded once") {
  if (no_gpu()) return;
  Gpu gpu;
  run_all(*gpu.ops, DType::bf16, kF32);
}

TEST_CASE("CUDA ops in fp16 compute their formulas, rounded once") {
  if (no_gpu()) return;
  Gpu gpu;
  run_all(*gpu.ops, DType::f16, kF32);
}

TEST_CASE("CUDA ops in tf32 mode compute their formulas with operands of 11 significant bits") {
  if (no_gpu()) return;
  Gpu gpu(MatmulMode::tf32);
  run_all(*gpu.ops, DType::f32, kTf32);
}

TEST_CASE("CUDA products by the library's first algorithms") {
  if (no_gpu()) return;
  Gpu gpu(MatmulMode::f32, first_algorithms());
  for (DType type : {DType::f32, DType::bf16, DType::f16}) {
    OpTest test(*gpu.ops, type);
    const std::vector<OpCase> products = {{"matmul", test_matmul}, {"wide matmul", wide_matmul}};
    run_cases(test, products);
  }
}

TEST_CASE("CUDA gradients are the derivatives of the forward formulas") {
  if (no_gpu()) return;
  Gpu gpu;
  OpTest test(*gpu.ops, DType::f32);
  run_cases(test, without_attention(gradient_cases()));
}

TEST_CASE("CUDA results repeat bit for bit, and a repeated step takes no more memory") {
  if (no_gpu()) return;
  INFO("LLMFT_TEST_SEED=" << test_seed());
  for (DType type : {DType::f32, DType::bf16, DType::f16}) {
    Gpu gpu(MatmulMode::f32, first_algorithms()), another(MatmulMode::f32, first_algorithms());
    auto first = sums_in(*gpu.ops, type);
    size_t held = gpu.device->bytes_held();
    for (int round = 0; round < 3; ++round) {
      auto again = sums_in(*gpu.ops, type), elsewhere = sums_in(*another.ops, type);
      for (size_t i = 0; i < first.size(); ++i) {
        INFO("result " << i);
        CHECK(bits_of(again[i]) == bits_of(first[i]));
        CHECK(bits_of(elsewhere[i]) == bits_of(first[i]));
      }
    }
    CHECK(gpu.device->bytes_held() == held);
  }
}

TEST_CASE("CUDA: one choice of algorithm serves neighbouring numbers of tokens") {
  if (no_gpu()) return;
  Gpu gpu;
  for (DType type : {DType::f32, DType::bf16})
    for (int64_t tokens : {1000, 1023, 900, 65, 128, 1030, 2047}) {
      OpTest t(*gpu.ops, type);
      t.gaps = {0, 8};
      Matrix x = t.normal(tokens, 64), w = t.normal(48, 64), dy = t.normal(tokens, 48);
      Tensor y = t.output(tokens, 48), dx = t.output(tokens, 64), dw = t.output_of(DType::f32, 48, 64);
      gpu.ops->matmul(Layout::nt, t.input(x), t.input(w), y);
      gpu.ops->matmul(Layout::nn, t.input(dy), t.input(w), dx);
      gpu.ops->matmul(Layout::tn, t.input(dy), t.input(x), dw);
      t.expect("y", y, oracle::matmul(Layout::nt, x, w), {.slack = kF32});
      t.expect("dx", dx, oracle::matmul(Layout::nn, dy, w), {.slack = kF32});
      t.expect("dw", dw, oracle::matmul(Layout::tn, dy, x), {.slack = kF32});
      t.finish();
    }
}

TEST_CASE("CUDA: timed choices are kept in a file, and a file that cannot be used does no harm") {
  if (no_gpu()) return;
  INFO("LLMFT_TEST_SEED=" << test_seed());
  TemporaryFolder folder;
  GemmTuning tuning;
  tuning.file = folder.path / "new" / "gemm.txt";
  auto product = [&] {
    Gpu gpu(MatmulMode::f32, tuning);
    OpTest t(*gpu.ops, DType::bf16);
    t.gaps = {0};
    Matrix x = t.normal(512, 1024), w = t.normal(256, 1024);
    Tensor y = t.output(512, 256);
    gpu.ops->matmul(Layout::nt, t.input(x), t.input(w), y);
    t.expect("y", y, oracle::matmul(Layout::nt, x, w), {.slack = kF32});
    Matrix result = t.read(y);
    t.finish();
    return result;
  };
  Matrix timed = product();
  std::string kept = read_file(tuning.file);
  CHECK(bits_of(product()) == bits_of(timed));
  CHECK(read_file(tuning.file) == kept);
  std::ofstream(tuning.file) << "not ours\n1 2 3\n";
  product();
  CHECK(read_file(tuning.file).substr(0, 30) == kept.substr(0, 30));
  std::string damaged = kept.substr(0, kept.size() - 40);  // the algorithm's last words are gone
  std::ofstream(tuning.file) << damaged;
  product();
}

// The loss scaler sees an overflow only if no op swallows it.
TEST_CASE("CUDA: NaN and infinity in an input reach the output") {
  if (no_gpu()) return;
  Gpu gpu;
  for (DType type : {DType::f32, DType::bf16, DType::f16})
    for (int64_t width : {40, 20000})
      for (double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        OpTest t(*gpu.ops, type);
        Matrix logits = t.normal(3, width);
        logits(1, 17) = bad;
        Tensor loss = t.output_of(DType::f32, 1, 3), gradient = t.in_place(logits);
        gpu.ops->cross_entropy(gradient, t.indices({0, 1, 2}), 1, loss, LossMode::loss_and_gradient);
        CHECK_FALSE(std::isfinite(t.read(loss)[1]));
        CHECK_FALSE(std::isfinite(norm_of(t.read(gradient.row_range(1, 1)))));
        CHECK(std::isfinite(t.read(loss)[0]));
        CHECK(std::isfinite(t.read(loss)[2]));

        Matrix x = t.normal(1, width);
        x[width - 1] = bad;
        Tensor y = t.output(1, width), rstd = t.output_of(DType::f32, 1, 1), h = t.output(1, width / 2);
        Tensor gate_up = t.in_place(x);
        gpu.ops->norm(t.input(x), t.input(t.normal(1, width)), 1e-5f, {}, y, rstd);
        CHECK_FALSE(std::isfinite(norm_of(t.read(y))));
        gpu.ops->swiglu(gate_up, h);
        CHECK_FALSE(std::isfinite(t.read(h)[width / 2 - 1]));
        gpu.ops->swiglu_backward(t.input(t.normal(1, width / 2)), gate_up, {});
        CHECK_FALSE(std::isfinite(norm_of(t.read(gate_up))));
        if (type == DType::f32) CHECK_FALSE(std::isfinite(sum_on(*gpu.ops, t.input(x))));
      }
}

TEST_CASE("CUDA: wrong shapes and dtypes are refused") {
  if (no_gpu()) return;
  Gpu gpu;
  Ops& ops = *gpu.ops;
  OpTest t(ops, DType::f32);
  Tensor x = t.in_place(t.normal(4, 6)), w = t.in_place(t.normal(1, 6)), rstd = t.output(1, 4);
  Tensor half = t.output_of(DType::bf16, 4, 6), narrow = t.output(4, 5), square = t.output(4, 4);
  CHECK_THROWS_AS(ops.norm(x, w, 1e-5f, {}, narrow, rstd), InternalError);
  CHECK_THROWS_AS(ops.norm(x, w, 1e-5f, {}, half, rstd), InternalError);
  CHECK_THROWS_AS(ops.norm_backward(x, x, w, rstd, t.input(t.normal(6, 2)), x, {}), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nn, x, x, square), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nt, x, half, square), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nt, x, x, square, 1, 1), InternalError);
  CHECK_THROWS_AS(ops.cross_entropy(half, t.indices({0, 1, 2, 3}), 1, half.row_range(0, 1).col_range(0, 4),
                                    LossMode::loss_only),
                  InternalError);
  CHECK_THROWS_AS(ops.swiglu(x, square), InternalError);
  CHECK_THROWS_AS(ops.add(half, x), InternalError);
  CHECK_THROWS_AS(ops.convert(x, narrow), InternalError);
  CHECK_THROWS_AS(make_cuda_ops(*make_cpu_device(), MatmulMode::f32, KernelChoice::measured), InternalError);
}

TEST_CASE("CUDA: memory that is not there is a UserError, and the device goes on working") {
  if (no_gpu()) return;
  Gpu gpu;
  size_t total = gpu.device->total_memory();
  CHECK(total > size_t{1} << 30);
  CHECK_THROWS_AS(Buffer(*gpu.device, 2 * total, MemoryPart::activations), UserError);
  OpTest t(*gpu.ops, DType::f32);
  const std::vector<OpCase> some = {{"convert", test_convert}, {"matmul", test_matmul}};
  run_cases(t, some);
}

TEST_CASE("a GPU that does not exist is a UserError") {
  CHECK_THROWS_AS(make_cuda_device(cuda_device_count()), UserError);
}

// For compute-sanitizer, under which everything is slow (tools/gpu_check.sh): every kernel of the project,
// small.
TEST_CASE("small CUDA: ops" * doctest::skip()) {
  if (no_gpu()) return;
  Gpu gpu(MatmulMode::f32, first_algorithms());
  for (DType type : {DType::f32, DType::bf16}) {
    OpTest odd(*gpu.ops, type), aligned(*gpu.ops, type);
    odd.matmul_slack = aligned.matmul_slack = kF32;
    aligned.gaps = {0, 64, 8};
    for (const OpCase& op_case : without_attention(op_cases())) {
      if (std::string_view(op_case.name).starts_with("matmul")) continue;
      std::vector<OpCase> one{op_case};
      run_cases(odd, one);
      run_cases(aligned, one);
    }
    const std::vector<OpCase> wide = {
        {"wide norm",
         [](OpTest& t) {
           check_norm(t, 5, 2048, 64);
           check_norm_backward(t, 5, 2048, 64);
           check_norm(t, 2, 8192, 8);
         }},
        {"wide cross_entropy", [](OpTest& t) { check_cross_entropy(t, 2, 40001); }},
        {"wide sums", [](OpTest& t) { check_sums(t, 200001, 65536); }}};
    run_cases(aligned, wide);
  }
}

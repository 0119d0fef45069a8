// The table of op cases on the CPU backend.
#include "ops/gradient_cases.hpp"
#include "ops/wide_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

struct Cpu {
  std::unique_ptr<Device> device = make_cpu_device();
  std::unique_ptr<Ops> ops;
  explicit Cpu(MatmulMode mode = MatmulMode::f32, int threads = 1)
      : ops(make_cpu_ops(*device, mode, threads)) {}
};

}  // namespace

TEST_CASE("CPU ops in fp32 compute their formulas") {
  Cpu cpu;
  OpTest test(*cpu.ops, DType::f32);
  run_cases(test, op_cases());
}

TEST_CASE("CPU ops in bf16 compute their formulas, rounded once") {
  Cpu cpu;
  OpTest test(*cpu.ops, DType::bf16);
  run_cases(test, op_cases());
}

TEST_CASE("CPU ops in fp16 compute their formulas, rounded once") {
  Cpu cpu;
  OpTest test(*cpu.ops, DType::f16);
  run_cases(test, op_cases());
}

TEST_CASE("CPU ops in tf32 mode compute their formulas with operands of 11 significant bits") {
  Cpu cpu(MatmulMode::tf32);
  OpTest test(*cpu.ops, DType::f32);
  test.matmul_slack = 0x1p-10;  // both operands rounded to 2^-11
  run_cases(test, op_cases());
}

TEST_CASE("CPU ops with two threads for products") {
  Cpu cpu(MatmulMode::f32, 2);
  OpTest test(*cpu.ops, DType::f32);
  run_cases(test, op_cases());
}

TEST_CASE("CPU ops on wide shapes") {
  Cpu cpu;
  for (DType type : {DType::f32, DType::bf16}) {
    OpTest test(*cpu.ops, type);
    test.f32_slack = 4e-5;  // up to 25,000 terms one after another in a lane of a sum
    run_cases(test, wide_cases());
  }
}

TEST_CASE("gradients are the derivatives of the forward formulas") {
  Cpu cpu;
  OpTest test(*cpu.ops, DType::f32);
  run_cases(test, gradient_cases());
}

#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>
#include <unistd.h>

#include "llmft/report/energy.hpp"
#include "llmft/report/machine.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

// powercap as the kernel shows two packages, one with a part.
struct Powercap {
  fs::path path = fs::temp_directory_path() / ("llmft_powercap." + std::to_string(::getpid()));
  Powercap() {
    fs::remove_all(path);
    for (const char* zone : {"intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"}) {
      fs::create_directories(path / zone);
      std::ofstream(path / zone / "max_energy_range_uj") << 10'000'000 << "\n";
    }
    fs::create_directories(path / "intel-rapl");
    set("intel-rapl:0:0", 0);
  }
  ~Powercap() { fs::remove_all(path); }
  void set(const char* zone, int64_t microjoules) const {
    std::ofstream(path / zone / "energy_uj") << microjoules << "\n";
  }
};

}  // namespace

TEST_CASE("CPUs: packages are summed, parts are not, and a counter that has wrapped goes on") {
  Powercap powercap;
  powercap.set("intel-rapl:0", 1'000'000);
  powercap.set("intel-rapl:1", 9'000'000);
  EnergyMeter meter = EnergyMeter::of_cpus(powercap.path);
  CHECK(meter.joules() == 0);
  powercap.set("intel-rapl:0", 1'500'000);
  powercap.set("intel-rapl:1", 1'000'000);
  powercap.set("intel-rapl:0:0", 5'000'000);
  CHECK(meter.joules() == doctest::Approx(2.5));
  CHECK(meter.joules() == doctest::Approx(0));
  fs::remove(powercap.path / "intel-rapl:1/energy_uj");
  CHECK(!meter.joules());
}

TEST_CASE("what no counter tells is not measured") {
  CHECK(!EnergyMeter::of_cpus("/nowhere").joules());
  if (driver_version().empty()) {
    EnergyMeter gpu = EnergyMeter::of_gpu("0000:17:00.0");
    CHECK(!gpu.joules());
    StepEnergy steps(gpu);
    steps.step_done(10);
    steps.step_done(10);
    steps.pause();
    CHECK(!steps.joules());
  }
  CHECK(EnergyMeter::none().joules() == 0);
}

TEST_CASE("stretches of steps: from the end of a step on, without what lies between, and not too short") {
  Powercap powercap;
  auto used = [&](int64_t microjoules) {
    powercap.set("intel-rapl:0", microjoules);
    powercap.set("intel-rapl:1", 0);
  };
  used(0);
  StepEnergy steps(EnergyMeter::of_cpus(powercap.path));
  steps.pause();
  used(1'000'000);
  steps.step_done(100);  // begins
  used(2'000'000);
  steps.step_done(10);
  ::usleep(100'000);
  steps.pause();
  CHECK(!steps.joules());  // far below a second, on a loaded machine too
  used(7'000'000);         // a validation
  steps.step_done(100);
  used(7'500'000);
  steps.step_done(20);
  ::usleep(950'000);
  steps.pause();
  steps.pause();
  REQUIRE(steps.joules());
  CHECK(*steps.joules() == doctest::Approx(1.5));
  CHECK(steps.tokens() == 30);
  steps.step_done(5);  // a stretch of one step is none
  used(9'000'000);
  steps.pause();
  CHECK(*steps.joules() == doctest::Approx(1.5));
  CHECK(steps.tokens() == 30);
}

TEST_CASE("machine and versions in a line") {
  CHECK(machine_text({"X", "X"}, 1, 64) == "2 x X, 64 CPUs");
  CHECK(machine_text({"X", "Y", "X"}, 3, 8) == "2 x X + 1 x Y, 3 nodes of 8 CPUs");
  CHECK(versions_text("13.0", "2.27.7").find("CUDA 13.0, NCCL 2.27.7") != std::string::npos);
  CHECK(versions_text("13.0", "NCCL was not found").find("NCCL") == std::string::npos);
  CHECK(versions_text("", "").find("CUDA") == std::string::npos);
}

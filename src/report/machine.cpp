// Library versions are asked of the libraries in the process by the names of their version functions, so that
// this layer needs none of them to link.
#include "llmft/report/machine.hpp"

#include <algorithm>
#include <array>
#include <fstream>

#include <dlfcn.h>
#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "llmft/base/text.hpp"
#include "llmft/report/energy.hpp"

namespace llmft {
namespace {

#ifdef LLMFT_VERSION
constexpr const char* kVersion = LLMFT_VERSION;
#else
constexpr const char* kVersion = "development";
#endif

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      return std::string(trim(std::string_view(line).substr(line.find(':') + 1)));
  utsname system{};
  return ::uname(&system) == 0 ? system.machine : "unknown";
}

template <class Function>
Function* loaded(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_DEFAULT, name));
}

std::string mpi_version() {
  auto* get = loaded<int(char*, int*)>("MPI_Get_library_version");
  std::array<char, 8192> text{};  // MPI_MAX_LIBRARY_VERSION_STRING is 256 in Open MPI and 8192 in MPICH
  int length = 0;
  if (get == nullptr || get(text.data(), &length) != 0) return "";
  std::string_view version(text.data());
  return std::string(trim(version.substr(0, version.find_first_of(",\n"))));
}

std::string hdf5_version() {
  auto* get = loaded<int(unsigned*, unsigned*, unsigned*)>("H5get_libversion");
  unsigned major = 0, minor = 0, release = 0;
  if (get == nullptr || get(&major, &minor, &release) < 0) return "";
  return fmt::format("{}.{}.{}", major, minor, release);
}

// "0.3.21 DYNAMIC_ARCH ... SkylakeX MAX_THREADS=64": which kernels it chose counts too.
std::string openblas_version() {
  auto* get = loaded<const char*()>("openblas_get_config");
  if (get == nullptr) return "";
  std::string_view text = trim(get());
  constexpr std::string_view kName = "OpenBLAS ";
  return std::string(text.starts_with(kName) ? text.substr(kName.size()) : text);
}

// For functions `const char* name()`.
std::string text_version(const char* function) {
  auto* get = loaded<const char*()>(function);
  return get == nullptr ? "" : std::string(trim(get()));
}

// 130100 -> 13.1.0
std::string five_digits(size_t v) {
  return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
}

std::string xxhash_version() {
  auto* get = loaded<unsigned()>("XXH_versionNumber");
  if (get == nullptr) return "";
  return five_digits(get());
}

// For functions `size_t name()`.
std::string number_version(const char* function) {
  auto* get = loaded<size_t()>(function);
  return get == nullptr ? "" : five_digits(get());
}

std::string pcre2_version() {
  auto* get = loaded<int(uint32_t, void*)>("pcre2_config_8");
  std::array<char, 64> text{};
  constexpr uint32_t kConfigVersion = 11;  // PCRE2_CONFIG_VERSION
  return get == nullptr || get(kConfigVersion, text.data()) < 0 ? "" : std::string(text.data());
}

}  // namespace

MachineInfo machine_info() {
  MachineInfo info;
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  info.host = host.data();
  info.cpu = cpu_model();
  info.cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t mask;
  // fails on machines of more than 1024 cores
  info.usable_cores = ::sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : info.cores;
  info.memory_bytes =
      static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return info;
}

BuildInfo build_info() {
  BuildInfo info;
  info.version = kVersion;
#if defined(__clang__)
  info.compiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
  info.compiler = "GCC " __VERSION__;
#else
  info.compiler = "unknown";
#endif
#ifdef LLMFT_GIT
  info.git = LLMFT_GIT;
#endif
  return info;
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  std::vector<std::pair<std::string, std::string>> versions;
  auto add = [&](const char* name, std::string version) {
    if (!version.empty()) versions.emplace_back(name, std::move(version));
  };
  add("driver", driver_version());
  add("cuBLAS", number_version("cublasLtGetVersion"));
  add("cuDNN", number_version("cudnnGetVersion"));
  add("MPI", mpi_version());
  add("HDF5", hdf5_version());
  add("OpenBLAS", openblas_version());
  add("zlib", text_version("zlibVersion"));
  add("zstd", text_version("ZSTD_versionString"));
  add("PCRE2", pcre2_version());
  add("xxHash", xxhash_version());
  add("fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100));
  add("nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                   NLOHMANN_JSON_VERSION_PATCH));
  add("glibc", ::gnu_get_libc_version());
  return versions;
}

std::string versions_text(const std::string& cuda, const std::string& nccl) {
  std::vector<std::pair<std::string, std::string>> all = library_versions();
  std::vector<std::string> parts;
  auto add = [&](const char* name, const std::string& version) {
    if (!version.empty()) parts.push_back(fmt::format("{} {}", name, version));
  };
  auto found = [&](std::string_view name) {
    for (const auto& [known, version] : all)
      if (known == name) return version;
    return std::string();
  };
  if (!cuda.empty()) {
    add("driver", found("driver"));
    add("CUDA", cuda);
    for (const char* name : {"cuBLAS", "cuDNN"}) add(name, found(name));
  }
  if (!nccl.empty() && nccl[0] >= '0' && nccl[0] <= '9') add("NCCL", nccl);  // else why there is none
  if (cuda.empty()) add("OpenBLAS", found("OpenBLAS"));
  add("MPI", found("MPI"));
  return join(parts, ", ");
}

std::string machine_text(const std::vector<std::string>& devices, int64_t nodes, int64_t cpus_of_node) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const std::string& name : devices) {
    auto known =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return kind.first == name; });
    if (known == kinds.end())
      kinds.emplace_back(name, 1);
    else
      ++known->second;
  }
  std::vector<std::string> parts;
  for (const auto& [name, count] : kinds) parts.push_back(fmt::format("{} x {}", count, name));
  std::string of_nodes = nodes > 1 ? fmt::format("{} nodes of ", nodes) : "";
  return fmt::format("{}, {}{} CPUs", join(parts, " + "), of_nodes, cpus_of_node);
}

}  // namespace llmft

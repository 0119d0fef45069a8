#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/model/safetensors.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

const fs::path kGolden = fs::path(LLMFT_SOURCE_DIR) / "tests/golden";

struct Folder {
  fs::path path = fs::temp_directory_path() / ("llmft_safetensors." + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}
bool says(const std::string& message, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    if (message.find(part) == std::string::npos) return false;
  return true;
}

// Thousands of files would wait for write_file_atomic's fsync, and for ext4's flush of a file that is written
// over.
void put(const fs::path& path, const std::string& bytes) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

// A file of this header and so many bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  uint64_t size = header.size();
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  return bytes + header + std::string(data_bytes, 'x');
}

void write_sample(const fs::path& path) {
  std::vector<float> a(6);
  std::iota(a.begin(), a.end(), 1.5f);
  std::vector<Bf16> b(4, from_float<Bf16>(-2));
  std::vector<int64_t> c{7, -1};
  OutTensor tensors[] = {{"model.a", SafetensorsType::f32, {2, 3}, a.data()},
                         {"model.b", SafetensorsType::bf16, {4}, b.data()},
                         {"count", SafetensorsType::i64, {2}, c.data()},
                         {"empty", SafetensorsType::f32, {0, 5}, nullptr},
                         {"scalar", SafetensorsType::f32, {}, a.data()}};
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "\"quoted\"\n"}});
}

}  // namespace

TEST_CASE("what is written reads back, and equal input makes equal bytes") {
  Folder folder;
  write_sample(folder / "x.safetensors");
  write_sample(folder / "y.safetensors");
  CHECK(read_file(folder / "x.safetensors") == read_file(folder / "y.safetensors"));

  SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.names() == std::vector<std::string>{"count", "empty", "model.a", "model.b", "scalar"});
  CHECK(file.metadata() == TensorMetadata{{"format", "pt"}, {"note", "\"quoted\"\n"}});
  CHECK(file.find("model.c") == nullptr);
  const SafetensorsEntry* a = file.find("model.a");
  REQUIRE(a != nullptr);
  CHECK(a->dtype == SafetensorsType::f32);
  CHECK(a->shape == std::vector<int64_t>{2, 3});
  CHECK(a->numel() == 6);
  CHECK(reinterpret_cast<uintptr_t>(a->bytes.data()) % 8 == 0);  // the header is padded
  CHECK(file.find("scalar")->shape.empty());
  CHECK(file.find("scalar")->numel() == 1);
  CHECK(file.find("empty")->numel() == 0);

  TensorFolder tensors(folder / "x.safetensors");
  std::vector<float> out(6);
  tensors.read_f32("model.a", {2, 3}, out);
  CHECK(out == std::vector<float>{1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f});
  tensors.read_f32("model.b", {4}, std::span(out).first(4));
  CHECK(out[0] == -2);
  std::vector<int32_t> counts(2);
  tensors.read_as("count", {2}, DType::i32, counts.data());
  CHECK(counts == std::vector<int32_t>{7, -1});
  tensors.read_as("empty", {0, 5}, DType::f32, nullptr);
  CHECK(says(message_of([&] { tensors.read_f32("count", {2}, std::span(out).first(2)); }),
             {"'count' has dtype I64", name_of(DType::f32)}));
}

TEST_CASE("elements of every float type, from unaligned data, more than one chunk of them") {
  Folder folder;
  constexpr int64_t kN = 10'001;
  std::vector<double> values(kN);
  CounterRng rng(1, 2);
  for (size_t i = 0; i < values.size(); ++i) values[i] = rng.normal(i);
  std::vector<float> f(values.begin(), values.end());
  std::vector<Bf16> b(f.size());
  std::vector<F16> h(f.size());
  convert(std::span<const float>(f), std::span(b));
  convert(std::span<const float>(f), std::span(h));
  uint8_t one = 1;
  OutTensor tensors[] = {{"pad", SafetensorsType::u8, {1}, &one},
                         {"f64", SafetensorsType::f64, {kN}, values.data()},
                         {"f32", SafetensorsType::f32, {kN}, f.data()},
                         {"bf16", SafetensorsType::bf16, {kN}, b.data()},
                         {"f16", SafetensorsType::f16, {kN}, h.data()}};
  write_safetensors(folder / "x.safetensors", tensors);
  TensorFolder file(folder / "x.safetensors");

  auto floats = [&](const char* name) {
    std::vector<float> out(f.size());
    file.read_f32(name, {kN}, out);
    return out;
  };
  CHECK(floats("f64") == f);
  CHECK(floats("f32") == f);
  for (const char* source : {"f64", "f32"}) {
    std::vector<Bf16> as_b(f.size());
    std::vector<F16> as_h(f.size());
    file.read_as(source, {kN}, DType::bf16, as_b.data());
    file.read_as(source, {kN}, DType::f16, as_h.data());
    CHECK(std::memcmp(as_b.data(), b.data(), b.size() * sizeof(Bf16)) == 0);
    CHECK(std::memcmp(as_h.data(), h.data(), h.size() * sizeof(F16)) == 0);
  }
  std::vector<float> from_b = floats("bf16"), from_h = floats("f16");
  bool same = true;
  for (size_t i = 0; i < f.size(); ++i)
    same = same && from_b[i] == to_float(b[i]) && from_h[i] == to_float(h[i]);
  CHECK(same);
  std::vector<F16> h_from_b(f.size());
  file.read_as("bf16", {kN}, DType::f16, h_from_b.data());
  CHECK(to_float(h_from_b[5]) == to_float(from_float<F16>(from_b[5])));
}

TEST_CASE("files that Hugging Face's safetensors wrote") {
  TensorFolder model(kGolden / "parity_tied/model");
  CHECK(model.has("model.embed_tokens.weight"));
  CHECK(model.get("model.layers.2.self_attn.k_proj.weight", {32, 64}).dtype == SafetensorsType::f32);
  std::vector<float> norm(64);
  model.read_f32("model.norm.weight", {64}, norm);
  CHECK(std::isfinite(norm[63]));
  TensorFolder parts(kGolden / "parity_untied/model");
  CHECK(parts.has("lm_head.weight"));
  CHECK(parts.names().size() == 3 * 9 + 3);
}

TEST_CASE("missing and misshapen tensors") {
  TensorFolder model(kGolden / "parity_tied/model");
  CHECK(says(message_of([&] {
               model.get("model.layers.0.self_attn.q_prj.weight", {64, 64});
             }),
             {"parity_tied/model", "'model.layers.0.self_attn.q_prj.weight' is missing",
              "'model.layers.0.self_attn.q_proj.weight'"}));
  CHECK(says(message_of([&] { model.get("zzz", {1}); }), {"'zzz' is missing", "no name"}));
  CHECK(says(message_of([&] { model.get("model.norm.weight", {65}); }),
             {"model.safetensors", "'model.norm.weight' has shape [64], but [65] is needed"}));
  CHECK(says(message_of([&] { model.get("model.norm.weight", {64, 1}); }), {"[64]", "[64, 1]"}));
}

TEST_CASE("folders: whole, in parts, incomplete, or something else") {
  Folder folder;
  auto opened = [&] { TensorFolder tensors(folder.path); };
  CHECK(says(message_of([] { TensorFolder tensors("/nowhere/model"); }), {"/nowhere/model", "not found"}));
  CHECK(says(message_of(opened), {folder.path.c_str(), "hf download"}));
  put(folder / "pytorch_model.bin", "x");
  CHECK(says(message_of(opened), {".bin", "safetensors form"}));

  float value = 3;
  auto part = [&](const char* file, const char* name) {
    OutTensor tensor[] = {{name, SafetensorsType::f32, {1}, &value}};
    write_safetensors(folder / file, tensor);
  };
  auto index = [&](const char* text) { put(folder / "model.safetensors.index.json", text); };
  part("model-1.safetensors", "a");
  index(
      R"({"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  CHECK(says(message_of(opened), {"model-2.safetensors: missing", "until it is complete"}));
  part("model-2.safetensors", "c");
  CHECK(says(message_of(opened), {"model-2.safetensors: has no tensor 'b'"}));
  part("model-2.safetensors", "b");
  TensorFolder both(folder.path);
  CHECK(both.names() == std::vector<std::string>{"a", "b"});
  CHECK(message_of([&] { both.get("b", {2}); }).find("model-2.safetensors") != std::string::npos);
  TensorFolder by_index(folder / "model.safetensors.index.json");
  CHECK(by_index.has("b"));

  for (const char* text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 1}})",
                           R"({"weight_map": {"a": "../model-1.safetensors"}})",
                           R"({"weight_map": {"a": ""}})", R"({"weight_map": {"a": ".."}})"}) {
    index(text);
    CHECK_MESSAGE(says(message_of(opened), {"model.safetensors.index.json"}), text);
  }
}

TEST_CASE("damaged headers are refused with the file's name and, where there is one, the tensor's") {
  Folder folder;
  auto error = [&](const std::string& bytes) {
    put(folder / "x.safetensors", bytes);
    std::string message = message_of([&] { SafetensorsFile file(folder / "x.safetensors"); });
    CHECK(message.find("x.safetensors") != std::string::npos);
    return message;
  };
  auto entry = [](const char* fields) { return std::string("{\"w\":{") + fields + "}}"; };
  const std::string good = entry(R"("dtype":"F32","shape":[2,2],"data_offsets":[0,16])");
  put(folder / "x.safetensors", file_of(good, 16));
  CHECK(SafetensorsFile(folder / "x.safetensors").find("w")->numel() == 4);

  CHECK(says(error(""), {"0 bytes"}));
  CHECK(says(error("\1\0\0"), {"1 bytes"}));
  CHECK(says(error(file_of(good, 16).substr(0, 20)), {"header has"}));
  CHECK(says(error(std::string(8, '\xff') + good), {"header would have 18446744073709551615 bytes"}));
  CHECK(says(error(file_of(good, 15)), {"\"w\"", "byte 16 of 15", "cut short"}));
  CHECK(says(error(file_of(good, 17)), {"1 bytes at its end"}));
  CHECK(says(error(file_of("[]", 0)), {"JSON object"}));
  CHECK(says(error(file_of("{", 0)), {"JSON object"}));
  CHECK(says(error(file_of(good + "}", 16)), {"JSON object"}));
  CHECK(says(error(file_of(R"({"w":3})", 0)), {"\"w\"", "not an object"}));
  CHECK(says(error(file_of(R"({"__metadata__":{"a":1}})", 0)), {"__metadata__"}));
  CHECK(says(error(file_of(R"({"__metadata__":[]})", 0)), {"__metadata__"}));
  struct Bad {
    const char* fields;
    const char* why;
  };
  for (Bad bad :
       {Bad{R"("shape":[4],"data_offsets":[0,16])", "no dtype"},
        {R"("dtype":"F32","data_offsets":[0,16])", "no shape"},
        {R"("dtype":"F32","shape":[4])", "no data_offsets"},
        {R"("dtype":32,"shape":[4],"data_offsets":[0,16])", "not a text"},
        {R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,16])", "F8_E4M3"},
        {R"("dtype":"F32","shape":4,"data_offsets":[0,16])", "not a list"},
        {R"("dtype":"F32","shape":[-4],"data_offsets":[0,16])", "no size"},
        {R"("dtype":"F32","shape":[4.0],"data_offsets":[0,16])", "no size"},
        {R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16])", "no size"},
        {R"("dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16])", "impossibly large"},
        {R"("dtype":"F32","shape":[5],"data_offsets":[0,16])", "16 bytes of data are not the 20 of F32 [5]"},
        {R"("dtype":"F32","shape":[4],"data_offsets":[16,0])", "backwards"},
        {R"("dtype":"F32","shape":[4],"data_offsets":[0,16,32])", "two sizes"},
        {R"("dtype":"F32","shape":[4],"data_offsets":[-16,0])", "two sizes"},
        {R"("dtype":"F32","shape":[4],"data_offsets":[4294967296,4294967312])", "cut short"},
        {R"("dtype":"F32","shape":[3],"data_offsets":[4,16])", "gap"}})
    CHECK_MESSAGE(says(error(file_of(entry(bad.fields), 16)), {bad.why}), bad.fields);

  std::string two =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[)";
  CHECK(says(error(file_of(two + "4,12]}}", 12)), {"\"b\"", "overlaps"}));
  CHECK(says(error(file_of(two + "0,8]}}", 8)), {"overlaps"}));
  CHECK(says(error(file_of(two + "12,20]}}", 20)), {"\"b\"", "gap"}));
}

TEST_CASE("thousands of damaged files: an error or a table that stays inside the file") {
  Folder folder;
  write_sample(folder / "good.safetensors");
  const std::string good = read_file(folder / "good.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, good.data(), sizeof header);
  const std::string tokens[] = {"0",
                                "-1",
                                "18446744073709551615",
                                "18446744073709551616",
                                "1e999",
                                "null",
                                "[]",
                                "{}",
                                "\"",
                                "[",
                                "}",
                                "9223372036854775807",
                                "\xff",
                                "\"F64\"",
                                ","};
  CounterRng rng(7, 0);
  uint64_t draw = 0;
  auto below = [&](uint64_t bound) { return rng.below(draw++, bound); };
  int accepted = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = good;
    for (uint64_t edits = 1 + below(3); edits > 0; --edits) {
      uint64_t at = below(std::min<uint64_t>(bytes.size(), header + 8));
      switch (below(6)) {
        case 0:
          bytes[at] = static_cast<char>(below(256));
          break;
        case 1:
          bytes.resize(below(bytes.size()) + 1);
          break;
        case 2:
          bytes.insert(at, tokens[below(std::size(tokens))]);
          break;
        case 3:
          bytes.replace(at, std::min<uint64_t>(below(6), bytes.size() - at),
                        tokens[below(std::size(tokens))]);
          break;
        case 4:  // another digit: the edit that keeps the JSON whole
          if (size_t digit = bytes.find_first_of("0123456789", at); digit != std::string::npos)
            bytes[digit] = static_cast<char>('0' + below(10));
          break;
        default:
          bytes.append(below(9), 'z');
      }
      if (below(2) == 0 && bytes.size() > sizeof header) {  // keep the length word right, to get past it
        uint64_t length =
            std::min<uint64_t>(bytes.size() - sizeof header, header + (bytes.size() - good.size()));
        std::memcpy(bytes.data(), &length, sizeof length);
      }
    }
    put(folder / "x.safetensors", bytes);
    message_of([&] {
      TensorFolder tensors(folder / "x.safetensors");
      ++accepted;
      for (const std::string& name : tensors.names()) {
        SafetensorsFile again(folder / "x.safetensors");
        const SafetensorsEntry& entry = tensors.get(name, again.find(name)->shape);
        std::vector<float> out(static_cast<size_t>(entry.numel()));
        tensors.read_f32(name, entry.shape, out);
      }
    });
  }
  CHECK(accepted > 0);
  CHECK(accepted < kRounds / 2);
}

TEST_CASE("a file has its name only when whole") {
  Folder folder;
  OutTensor tensor[] = {{"w", SafetensorsType::f32, {2}, nullptr}};
  float values[] = {1, 2};
  auto bytes = std::as_bytes(std::span(values));
  auto files = [&] { return std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()); };
  {
    SafetensorsWriter writer(folder / "x.safetensors", tensor);
    writer.write(bytes.first(4));
    CHECK_THROWS_AS(writer.write(bytes), InternalError);
  }
  CHECK(files() == 0);
  {
    SafetensorsWriter writer(folder / "x.safetensors", tensor);
    writer.write(bytes.first(3));
    writer.write(bytes.subspan(3));
    CHECK(!fs::exists(folder / "x.safetensors"));
    writer.finish();
  }
  CHECK(files() == 1);
  CHECK(std::memcmp(SafetensorsFile(folder / "x.safetensors").find("w")->bytes.data(), values, 8) == 0);
  CHECK(says(message_of([&] { write_safetensors("/nowhere/x.safetensors", tensor); }),
             {"/nowhere/x.safetensors"}));
}

TEST_CASE("no room on the disk") {
  // a limit on file size stands for the full disk: write(2) fails in the middle of the data
  Folder folder;
  std::vector<float> values(100'000);
  OutTensor tensor[] = {{"w", SafetensorsType::f32, {100'000}, values.data()}};
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small{65536, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string message = message_of([&] { write_safetensors(folder / "x.safetensors", tensor); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(says(message, {"x.safetensors", "cannot write"}));
  CHECK(fs::is_empty(folder.path));
}

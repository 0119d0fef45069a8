#include <filesystem>

#include <doctest/doctest.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/config/options.hpp"

using namespace llmft;

namespace {
enum class Colour { red, blue };
constexpr std::pair<const char*, Colour> kColours[] = {{"red", Colour::red}, {"blue", Colour::blue}};

struct Sample {
  bool fast = false;
  int64_t rank = 8;
  double rate = 0.1;
  std::string name = "x";
  std::vector<std::string> targets{"q", "v"};
  Colour colour = Colour::red;

  void describe(OptionSet& set) {
    set.add("name", name, "a name");
    set.add("adapter.rank", rank, "the rank", {.flag = "--adapter-rank", .min = 1, .max = 512});
    set.add("adapter.targets", targets, "which");
    set.add("train.rate", rate, "a rate", {.min = 0});
    set.add("train.fast", fast, "go", {.flag = "--fast"});
    set.add_enum<Colour>("colour", colour, kColours, "which", {.flag = "--colour"});
  }
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

std::filesystem::path write_yaml(const std::string& text) {
  auto path = std::filesystem::temp_directory_path() / "llmft_options_test.yaml";
  write_file_atomic(path, text);
  return path;
}
}  // namespace

TEST_CASE("file, then command line, whatever the order they are given in") {
  Sample s;
  OptionSet set;
  s.describe(set);
  auto file = write_yaml("name: file\nadapter:\n  rank: 4\n  targets: [o, down]\ntrain: {rate: 2.5e-1}\n");
  set.parse(std::vector<std::string>{"--adapter-rank", "32", "--config", file.string(), "--fast",
                                     "--colour=blue", "--train.rate=0.125"});
  CHECK(s.name == "file");
  CHECK(s.rank == 32);
  CHECK(s.rate == 0.125);
  CHECK(s.fast);
  CHECK(s.colour == Colour::blue);
  CHECK(s.targets == std::vector<std::string>{"o", "down"});
  CHECK(set.origin("name") == file.string() + ":1");
  CHECK(set.origin("adapter.rank") == "--adapter-rank");
}

TEST_CASE("the dumped config reads back to the same values") {
  Sample a;
  OptionSet set_a;
  a.describe(set_a);
  set_a.parse(std::vector<std::string>{"--name=on: yes # \"quoted\"", "--adapter.targets=up,gate",
                                       "--train.rate", "0.1", "--fast"});
  Sample b;
  OptionSet set_b;
  b.describe(set_b);
  set_b.load_yaml(write_yaml(set_a.dump_yaml()));
  CHECK(b.name == a.name);
  CHECK(b.targets == a.targets);
  CHECK(b.rate == a.rate);
  CHECK(b.fast == a.fast);
}

TEST_CASE("what is wrong is named with file, line and the nearest known name") {
  Sample s;
  OptionSet set;
  s.describe(set);
  auto file = write_yaml("name: a\nadaptor:\n  rank: 4\n");
  CHECK(message_of([&] { set.load_yaml(file); }) ==
        file.string() + ":3: unknown option 'adaptor.rank'; did you mean 'adapter.rank'?");
  CHECK(message_of([&] { set.load_yaml(write_yaml("rank: 4\n")); }).find("did you mean 'adapter.rank'") !=
        std::string::npos);
  CHECK(message_of([&] { set.load_yaml(write_yaml("\nadapter: {rank: four}\n")); }) ==
        file.string() + ":2: 'four' is not valid for adapter.rank (a whole number is needed)");
  CHECK(message_of([&] {
          set.parse(std::vector<std::string>{"--adapter-rnk", "4"});
        }) == "--adapter-rnk: unknown option; did you mean '--adapter-rank'?");
  CHECK(message_of([&] {
          set.parse(std::vector<std::string>{"--adapter-rank", "0"});
        }).find("1 to 512") != std::string::npos);
  CHECK(message_of([&] {
          set.parse(std::vector<std::string>{"--colour", "blu"});
        }).find("did you mean 'blue'") != std::string::npos);
  CHECK(message_of([&] { set.parse(std::vector<std::string>{"stray"}); }).find("unexpected argument") !=
        std::string::npos);
  CHECK(message_of([&] {
          set.parse(std::vector<std::string>{"--adapter-rank"});
        }).find("a value is needed") != std::string::npos);
  CHECK(message_of([&] { set.load_yaml(write_yaml("a: [1\n")); }).find("not valid YAML") !=
        std::string::npos);
}

#include "output_folder.hpp"

#include <algorithm>
#include <map>
#include <string_view>

#include <nlohmann/json.hpp>

#include "chunked_array.hpp"
#include "duplicates.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

bool is_temporary(const std::string& name) {
  return (name.starts_with("shard-") || name.starts_with("manifest.json") ||
          name.starts_with("duplicates.")) &&
         name.find(".tmp.") != std::string::npos;
}
// "shard-00001-of-00003.h5"; what is called otherwise is not ours.
bool is_shard(const std::string& name) {
  constexpr std::string_view kBegin = "shard-", kMiddle = "-of-", kEnd = ".h5";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd)) return false;
  std::string_view numbers = std::string_view(name).substr(kBegin.size());
  numbers.remove_suffix(std::min(numbers.size(), kEnd.size()));
  size_t middle = numbers.find(kMiddle);
  auto is_number = [](std::string_view text) {
    return text.size() >= 5 && text.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return middle != std::string_view::npos && is_number(numbers.substr(0, middle)) &&
         is_number(numbers.substr(middle + kMiddle.size()));
}

std::vector<fs::path> list(const fs::path& folder) {
  std::vector<fs::path> paths;
  if (fs::is_directory(folder))
    for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

// "max_length was 2048, is 1024; the input has changed"
std::string differences(const std::string& old_settings, const std::string& new_settings) {
  auto was = nlohmann::json::parse(old_settings, nullptr, false);
  auto is = nlohmann::json::parse(new_settings);
  if (!was.is_object()) return "its settings cannot be read";
  std::vector<std::string> parts;
  for (auto& [key, value] : is.items()) {
    if (was.contains(key) && was[key] == value) continue;
    if (key == "sources") {
      parts.emplace_back("the input differs");
    } else if (key == "tokenizer_hash") {
      parts.emplace_back("the tokenizer differs");
    } else {
      parts.push_back(fmt::format("{} was {}, is {}", key, was.contains(key) ? was[key].dump() : "not set",
                                  value.dump()));
    }
  }
  return parts.empty() ? "made by another version" : join(parts, "; ");
}

class Folder {
 public:
  Folder(fs::path output, const std::string& settings, const std::string& fingerprint, Overwrite overwrite)
      : output_(std::move(output)), settings_(settings), fingerprint_(fingerprint), overwrite_(overwrite) {}

  // Both are looked through before anything is removed, so that a refusal changes nothing.
  void look(const fs::path& folder) {
    for (const fs::path& path : list(folder)) {
      std::string name = path.filename().string();
      if (is_temporary(name)) {
        stale_.push_back(path);
      } else if (is_shard(name)) {
        look_at_shard(folder, path);
      } else if (name == kDuplicatesName) {
        listed_.push_back(path);
      } else if (name == "manifest.json") {
        look_at_manifest(folder, path);
      }
    }
  }

  // Manifests and lists of duplicates are made anew when a shard is.
  void forget_lists() { stale_.insert(stale_.end(), listed_.begin(), listed_.end()); }

  void clean() const {
    for (const fs::path& path : stale_) {
      std::error_code error;
      fs::remove(path, error);
      if (error) user_error("{}: cannot remove ({})", path.string(), error.message());
    }
  }

  // Shards of this run's settings in a folder: index -> file.
  const std::map<uint64_t, fs::path>& shards(const fs::path& folder) { return shards_[folder.string()]; }
  const Manifest* manifest(const fs::path& folder) const {
    auto found = manifests_.find(folder.string());
    return found == manifests_.end() ? nullptr : &found->second;
  }

 private:
  void foreign(const fs::path& path, const std::string& why) {
    if (overwrite_ == Overwrite::no)
      user_error(
          "{}: holds shards of other input or settings ({}); choose another --output, or --force to "
          "replace them",
          output_.string(), why);
    stale_.push_back(path);
  }

  void look_at_shard(const fs::path& folder, const fs::path& path) {
    const Manifest::Shard* listed = in_manifest(folder, path);
    std::string why;
    try {
      uint64_t bytes = fs::file_size(path);
      if (bytes == 0) damaged_shard(path, "no bytes");
      // HDF5 reads on where bytes were added
      if (listed != nullptr && listed->bytes != bytes) damaged_shard(path, "the manifest says another size");
      ShardReader reader(path);
      if (reader.origin().fingerprint == fingerprint_) {
        shards_[folder.string()][reader.origin().index] = path;
        return;
      }
      why = differences(reader.origin().settings, settings_);
    } catch (const DamagedShard&) {
      damaged(path);
      return;
    } catch (const ForeignShard& e) {
      why = e.what();
    } catch (const fs::filesystem_error& e) {
      user_error("{}: cannot read ({})", path.string(), e.code().message());
    }
    if (listed != nullptr) return damaged(path);  // this run's settings made it
    foreign(path, why);
  }
  void damaged(const fs::path& path) {
    log::warn("{}: damaged or half a shard; it is made anew", path.string());
    stale_.push_back(path);
  }
  // This run's manifest comes before the shards in list(). nullptr: it does not have that file.
  const Manifest::Shard* in_manifest(const fs::path& folder, const fs::path& path) const {
    const Manifest* manifest = this->manifest(folder);
    if (manifest == nullptr) return nullptr;
    auto found = std::find_if(manifest->shards.begin(), manifest->shards.end(),
                              [&](const Manifest::Shard& shard) { return shard.file == path.filename(); });
    return found == manifest->shards.end() ? nullptr : &*found;
  }

  void look_at_manifest(const fs::path& folder, const fs::path& path) {
    Manifest found;
    try {
      found = read_manifest(folder);
    } catch (const DamagedManifest&) {
      log::warn("{}: damaged or edited; it is made anew", path.string());
      stale_.push_back(path);
      return;
    } catch (const UserError&) {
      foreign(path, "its manifest.json cannot be read");
      return;
    }
    if (found.fingerprint == fingerprint_) {
      listed_.push_back(path);
      manifests_.emplace(folder.string(), std::move(found));
    } else {
      foreign(path, differences(found.settings, settings_));
    }
  }

  fs::path output_;
  const std::string& settings_;
  const std::string& fingerprint_;
  Overwrite overwrite_;
  std::vector<fs::path> stale_;
  std::vector<fs::path> listed_;
  std::map<std::string, std::map<uint64_t, fs::path>> shards_;
  std::map<std::string, Manifest> manifests_;
};

// shards: those that can be read.
bool is_whole(const fs::path& folder, const Manifest* manifest, size_t shards) {
  if (manifest == nullptr || manifest->shards.size() != shards) return false;
  auto there = [&](const std::string& file, uint64_t bytes) {
    std::error_code error;
    return fs::file_size(folder / file, error) == bytes && !error;
  };
  const Manifest::Duplicates& duplicates = manifest->duplicates;
  return (duplicates.file.empty() || there(duplicates.file, duplicates.bytes)) &&
         std::all_of(manifest->shards.begin(), manifest->shards.end(),
                     [&](const Manifest::Shard& shard) { return there(shard.file, shard.bytes); });
}

}  // namespace

fs::path validation_folder(const fs::path& output) {
  return output / "valid";
}

FolderState prepare_output(const fs::path& output, bool with_validation, const std::string& settings,
                           const std::string& fingerprint, Overwrite overwrite) {
  fs::path valid = validation_folder(output);
  make_writable_folder(output);
  Folder folder(output, settings, fingerprint, overwrite);
  FolderState state;
  try {
    folder.look(output);
    folder.look(valid);
    auto whole = [&](const fs::path& path) {
      return is_whole(path, folder.manifest(path), folder.shards(path).size());
    };
    state.whole = whole(output) && (!with_validation || whole(valid));
    if (!state.whole) folder.forget_lists();
    folder.clean();
    if (with_validation) make_writable_folder(valid);
    std::error_code not_empty;
    if (!with_validation) fs::remove(valid, not_empty);  // what --force has emptied
  } catch (const fs::filesystem_error& e) {
    user_error("{}: cannot list this folder ({})", output.string(), e.code().message());
  }
  for (auto& [index, path] : folder.shards(output))
    if (!with_validation || folder.shards(valid).contains(index)) state.finished.push_back(index);
  return state;
}

}  // namespace llmft

#include "artifact.h"

#include "build_config.h"
#include "json.h"
#include "sha256.h"

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

std::string read_bytes(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read; expected an artifact folder written by cg-export: check the path in pair_coeff");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void verify(const std::string &path, const std::string &bytes, const std::string &expected)
{
  const std::string actual = cg::sha256(bytes);
  if (actual != expected)
    throw std::runtime_error(path + ": checksum mismatch, expected sha256 " + expected.substr(0, 12) + "..., received " +
                             actual.substr(0, 12) + "...: the artifact was changed or damaged; export it again");
}

}    // namespace

cg::Artifact cg::read_artifact(const std::string &folder)
{
  const std::string path = folder + "/manifest.json";
  const std::string text = read_bytes(path);
  LAMMPS_NS::json manifest;
  try {
    manifest = LAMMPS_NS::json::parse(text);
    const int version = manifest.at("format_version").get<int>();
    if (version > CG_ARTIFACT_VERSION)
      throw std::runtime_error(path + ": artifact format " + std::to_string(version) + " is newer than this plugin, which reads up to " +
                               std::to_string(CG_ARTIFACT_VERSION) + ": update cg-export and run cg-export build-plugin again");
    verify(path, text, read_bytes(folder + "/manifest.sha256").substr(0, 64));
    for (const auto &item : manifest.at("files").items()) {
      const std::string file = folder + "/" + item.key();
      verify(file, read_bytes(file), item.value().get<std::string>());
    }
    Artifact artifact;
    artifact.cutoff = manifest.at("cutoff_angstrom").get<double>();
    artifact.receptive_field = manifest.at("receptive_field_angstrom").get<double>();
    artifact.needs_topology = manifest.at("needs_topology").get<bool>();
    artifact.species = manifest.at("species_names").get<std::vector<std::string>>();
    for (const auto &item : manifest.at("modules")) {
      const auto size = [&item](const char *name) { return item.at(name).get<int32_t>(); };
      artifact.modules.push_back({item.at("file").get<std::string>(), item.at("platforms").get<std::vector<std::string>>(),
                                  {size("beads"), size("edges"), size("bonds"), size("angles"), size("dihedrals")}});
    }
    return artifact;
  } catch (const LAMMPS_NS::json::exception &error) {
    throw std::runtime_error(path + ": not the manifest of an artifact (" + error.what() + "): export it again");
  }
}

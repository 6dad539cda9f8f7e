{
  description = "Linux hosts as one multi-tenant fleet of microVMs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      # Written out, not from nixpkgs: `lib` must evaluate without fetching it, and Nix looks for any
      # attribute in `packages.<system>` first.
      systems = [
        "aarch64-linux"
        "x86_64-linux"
      ];
      forEachSystem =
        make:
        builtins.listToAttrs (
          map (system: {
            name = system;
            value = make system;
          }) systems
        );
    in
    {
      lib = import ./nixos/lib;

      packages = forEachSystem (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          own = self.packages.${system};
          # What every image of a guest has in common.
          common = rec {
            inherit (own) mvm-guest;
            inherit (pkgs.linuxPackages) kernel;
            inherit (pkgs.pkgsStatic) busybox;
            nodejs = pkgs.nodejs-slim;
            initrd = pkgs.callPackage ./images/guest/initrd.nix { inherit kernel mvm-guest; };
          };
          image = of: pkgs.callPackage ./images/guest/image.nix (common // of);
        in
        {
          default = own.mvm;
          mvm = pkgs.callPackage ./nixos/packages/mvm.nix { inherit (own) mvm-guest; };
          mvm-guest = pkgs.pkgsStatic.callPackage ./nixos/packages/mvm-guest.nix { };
        }
        # Images of guests: tenant-<role>-<profile>, for `mvm pool create --flake`.
        // builtins.mapAttrs (_: image) (import ./images/guest/names.nix)
      );
    };
}
